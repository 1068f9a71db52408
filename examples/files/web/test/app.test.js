// What runs in a browser, over one server: to start it takes longer than most tests.

import './list.js';
import './accessible.js';
import './board.js';
