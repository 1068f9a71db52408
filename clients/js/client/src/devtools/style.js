/** How the panel looks: in light and in dark, from 320 pixels on. */
export const STYLE = `
:host { display: block; color-scheme: light dark; font: 13px/1.45 system-ui, sans-serif; container-type: inline-size;
  --paper: #fff; --ink: #1b1f24; --soft: #57606a; --line: #d0d7de; --shade: #f3f5f7; --mark: #0a58b8; --bad: #b42318; --good: #1a6b33; }
@media (prefers-color-scheme: dark) {
  :host { --paper: #14181d; --ink: #e8ebef; --soft: #a7b0ba; --line: #3a434d; --shade: #1e242b; --mark: #7fb7ff; --bad: #ff9a8f; --good: #7ad494; }
}
* { box-sizing: border-box; }
section { background: var(--paper); color: var(--ink); border: 1px solid var(--line); border-radius: 8px; overflow: hidden; }
header { display: flex; flex-wrap: wrap; gap: 8px; align-items: center; padding: 8px 12px; background: var(--shade); }
header p { margin: 0; flex: 1 1 14em; min-width: 0; overflow-wrap: anywhere; }
.live { color: var(--good); } .offline, .stopped, .rejected { color: var(--bad); } .connecting, .sent, .pending { color: var(--mark); }
button, input, select { font: inherit; color: inherit; background: var(--paper); border: 1px solid var(--line); border-radius: 6px; padding: 4px 10px; min-height: 30px; max-width: 100%; }
button { cursor: pointer; } button:disabled { cursor: default; color: var(--soft); }
:focus-visible { outline: 2px solid var(--mark); outline-offset: 1px; }
details { border-top: 1px solid var(--line); }
summary { padding: 7px 12px; cursor: pointer; font-weight: 600; }
.body { padding: 0 12px 10px; }
.tools { display: flex; flex-wrap: wrap; gap: 8px; align-items: center; margin-bottom: 8px; }
.tools input { flex: 1 1 8em; min-width: 0; }
.scroll { max-height: 40vh; overflow: auto; border: 1px solid var(--line); border-radius: 6px; }
table { border-collapse: collapse; min-width: 100%; }
th, td { text-align: left; vertical-align: top; padding: 3px 8px; border-bottom: 1px solid var(--line); max-width: 22em; overflow-wrap: anywhere; }
th { background: var(--shade); position: sticky; top: 0; }
td { font-family: ui-monospace, monospace; font-size: 12px; }
ol, ul { margin: 0; padding: 0; list-style: none; }
li { padding: 4px 8px; border-bottom: 1px solid var(--line); }
li:last-child { border-bottom: 0; }
pre { margin: 2px 0 0; font: 12px/1.4 ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere; color: var(--soft); }
li details { border: 0; } li summary { padding: 0; font-weight: 400; }
.none { margin: 0; color: var(--soft); }
dialog { color: var(--ink); background: var(--paper); border: 1px solid var(--line); border-radius: 8px; max-width: min(26em, 90vw); }
dialog h2 { margin: 0 0 8px; font-size: 15px; } dialog p { margin: 0 0 12px; }
`;
