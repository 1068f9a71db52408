import type { Editor, Tool } from './editor';
import { COLOURS } from './shapes';
import type { Colour } from './shapes';

const UNDO = 'M7 4L3.500 7.500 7 11M3.500 7.500H12a4.500 4.500 0 0 1 0 9H8';
const REDO = 'M13 4l3.500 3.500L13 11M16.500 7.500H8a4.500 4.500 0 0 0 0 9h4';
const DELETE = 'M4 5.500h12M8 5V3.500h4V5M5.500 5.500l.700 11h7.600l.700-11M8.500 8.500v5M11.500 8.500v5';

/** The tools, their keys, and their faces. */
const TOOLS: [Tool, string, string, string][] = [
  ['select', 'Select', 'V', 'M5 3l10.500 6-4.700 1.500L8.500 15z'],
  ['rectangle', 'Rectangle', 'R', 'M5.500 4.500h9a2 2 0 0 1 2 2v7a2 2 0 0 1-2 2h-9a2 2 0 0 1-2-2v-7a2 2 0 0 1 2-2z'],
  ['arrow', 'Arrow', 'A', 'M4 16L16 4M8.500 4H16v7.500'],
  ['text', 'Text', 'T', 'M4.500 6V4.500h11V6M10 4.500v11M8 15.500h4'],
  ['draw', 'Draw', 'D', 'M3 14c2.500-7 4.500-9.500 6-8.500s-1.500 6.500 0 7.500 3-4 4.500-3.500.500 3 3.500 2.500'],
];
const NAMES: Record<Colour, string> = {
  ink: 'Ink',
  red: 'Red',
  amber: 'Amber',
  green: 'Green',
  blue: 'Blue',
  violet: 'Violet',
};

export function Toolbar({ editor }: { editor: Editor }) {
  const [only] = editor.selected;
  const color = only?.props.color ?? editor.color;
  return (
    <div className="tools" role="toolbar" aria-label="Tools">
      {TOOLS.map(([tool, name, key, face]) => (
        <button
          key={tool}
          type="button"
          className="icon"
          aria-label={name}
          title={`${name} (${key})`}
          aria-pressed={editor.tool === tool}
          onClick={() => editor.use(tool)}
        >
          <Face path={face} />
        </button>
      ))}
      <span className="rule" />
      <div className="colours" role="group" aria-label="Colour">
        {COLOURS.map((each) => (
          <button
            key={each}
            type="button"
            aria-label={NAMES[each]}
            title={NAMES[each]}
            aria-pressed={color === each}
            style={{ '--ink': `var(--draw-${each})` } as React.CSSProperties}
            onClick={() => editor.paint(each)}
          />
        ))}
      </div>
      <span className="rule" />
      <Command name="Undo" keys="Ctrl+Z" face={UNDO} isPossible={editor.canUndo} run={() => editor.undo()} />
      <Command name="Redo" keys="Ctrl+Shift+Z" face={REDO} isPossible={editor.canRedo} run={() => editor.redo()} />
      <Command name="Delete" keys="Del" face={DELETE} isPossible={only !== undefined} run={() => editor.remove()} />
    </div>
  );
}

interface CommandProps {
  name: string;
  keys: string;
  face: string;
  isPossible: boolean;
  run: () => void;
}

function Command({ name, keys, face, isPossible, run }: CommandProps) {
  return (
    <button
      type="button"
      className="icon"
      aria-label={name}
      title={`${name} (${keys})`}
      disabled={!isPossible}
      onClick={run}
    >
      <Face path={face} />
    </button>
  );
}

function Face({ path }: { path: string }) {
  return (
    <svg viewBox="0 0 20 20" aria-hidden="true">
      <path d={path} />
    </svg>
  );
}
