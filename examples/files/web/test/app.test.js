// What runs in a browser, over one server: to start it takes longer than most tests.

import './list.js';
import './board.js';
