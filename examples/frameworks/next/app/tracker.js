export const ME = 'u1';
export const PROJECT = '00000000-0000-4000-9000-000000000001';
