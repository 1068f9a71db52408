/** The error of a rejected mutation, or of a connection that ended for good. */
export class RowtideError extends Error {
  /**
   * @param {string} code of the protocol, or one that the application gives to a limit
   * @param {string} message for the developer
   */
  constructor(code, message) {
    super(message);
    this.name = 'RowtideError';
    this.code = code;
  }
}

/** The mistake of using what the client was created without. @param {string} entry of the package */
export const lacking = (entry) => new TypeError(`give \`createClient\` the \`${entry}\` of @rowtide/client/${entry}`);
