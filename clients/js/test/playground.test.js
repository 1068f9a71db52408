// The page of `rowtide dev` as a person has it, in a real browser over real servers: to start them takes longer than most
// tests.

import './playground/people.js';
import './playground/tables.js';
