// The keys of the board. They work wherever the focus is, but for fields and dialogs, which have keys of their own.

import { useEffect } from 'react';
import type { View } from './camera';
import type { Editor, Tool } from './editor';
import { boxAround, boxOf } from './shapes';

const TOOLS: Record<string, Tool> = { v: 'select', r: 'rectangle', a: 'arrow', t: 'text', d: 'draw' };
const ARROWS: Record<string, [number, number]> = {
  ArrowLeft: [-1, 0],
  ArrowRight: [1, 0],
  ArrowUp: [0, -1],
  ArrowDown: [0, 1],
};

export function useKeys(editor: Editor, view: View): void {
  useEffect(() => {
    const onKey = (event: KeyboardEvent) => {
      const field = event.target instanceof Element && event.target.closest('input, textarea, dialog, [role="menu"]');
      if (field || event.altKey) return;
      const isDone = event.ctrlKey || event.metaKey ? withControl(editor, event) : alone(editor, view, event);
      if (isDone) event.preventDefault();
    };
    addEventListener('keydown', onKey);
    return () => removeEventListener('keydown', onKey);
  }, [editor, view]);
}

/** What a key does together with Ctrl or ⌘; whether it does anything. */
function withControl(editor: Editor, { key, shiftKey }: KeyboardEvent): boolean {
  switch (key.toLowerCase()) {
    case 'z':
      if (shiftKey) editor.redo();
      else editor.undo();
      return true;
    case 'y':
      editor.redo();
      return true;
    case 'a':
      editor.select(editor.shapes.map((shape) => shape.id));
      return true;
    case 'd':
      if (editor.canEdit) editor.duplicate();
      return true;
    default:
      return false;
  }
}

function alone(editor: Editor, view: View, { key, shiftKey }: KeyboardEvent): boolean {
  switch (key) {
    case '+':
    case '=':
      view.zoom(1.25);
      return true;
    case '-':
      view.zoom(0.8);
      return true;
    case '0':
      view.fit(boxAround(editor.shapes.map(boxOf)));
      return true;
    default:
      return editor.canEdit && toEdit(editor, key, shiftKey);
  }
}

function toEdit(editor: Editor, key: string, isFar: boolean): boolean {
  const [tool, arrow] = [TOOLS[key.toLowerCase()], ARROWS[key]];
  if (key === 'Escape') {
    editor.use('select');
    editor.select([]);
  } else if (tool) editor.use(tool);
  else if (editor.selected.length === 0) return false;
  else if (arrow) editor.nudge(arrow[0] * (isFar ? 10 : 1), arrow[1] * (isFar ? 10 : 1));
  else if (key === 'Delete' || key === 'Backspace') editor.remove();
  else return false;
  return true;
}
