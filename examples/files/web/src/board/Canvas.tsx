// The surface that one draws on: the shapes, what is selected, where the others point, and the text that is being
// written.

import { memo, useEffect, useRef, useSyncExternalStore } from 'react';
import type { PointerEvent } from 'react';
import type { View } from './camera';
import { peersOf } from './editor';
import type { Editor, Peer } from './editor';
import { CORNERS, useGestures } from './gestures';
import { ShapeView } from './ShapeView';
import { LINE_HEIGHT, TEXT_SIZE, boxAround, boxOf, linesIn, withProps } from './shapes';
import type { Box, Shape } from './shapes';
import type { Camera } from './camera';

interface Props {
  editor: Editor;
  view: View;
  surface: React.RefObject<SVGSVGElement | null>;
}

export function Canvas({ editor, view, surface }: Props) {
  useSyncExternalStore(editor.subscribe, editor.version);
  const { camera } = view;
  const { marquee, isPanning, ...handlers } = useGestures(editor, view);
  const { shapes, selected } = editor;
  const written = editor.writing === null ? undefined : editor.shape(editor.writing);
  const peers = peersOf(editor.document);
  const isMany = selected.length > 1;
  const around = boxAround(selected.map(boxOf));
  const [only] = isMany ? [] : selected;
  return (
    <div className="surface">
      <svg
        ref={surface}
        className={isPanning ? 'panning' : `using-${editor.canEdit ? editor.tool : 'nothing'}`}
        style={gridOf(camera)}
        tabIndex={0}
        role="application"
        aria-label="Drawing"
        {...handlers}
      >
        <g transform={`translate(${camera.x} ${camera.y}) scale(${camera.zoom})`}>
          <Shapes shapes={shapes} written={editor.writing} isReachable={editor.canEdit} />
        </g>
        {peers.map((peer) =>
          peer.selected.map((id) => {
            const shape = editor.shape(id);
            const place = shape && onScreen(camera, boxOf(shape), 4);
            return place && <rect key={`${peer.id} ${id}`} className="selected-by-peer" stroke={peer.color} {...place} />;
          }),
        )}
        {isMany &&
          selected.map((shape) => <rect key={shape.id} className="selected" {...onScreen(camera, boxOf(shape), 3)} />)}
        {around && <Selection around={around} only={only} camera={camera} canEdit={editor.canEdit} />}
        {marquee && <rect className="marquee" {...onScreen(camera, marquee, 0)} />}
      </svg>
      {written && <Writing key={written.id} editor={editor} shape={written} camera={camera} />}
      {peers.map((peer) => peer.cursor && <Cursor key={peer.id} peer={peer} camera={camera} />)}
    </div>
  );
}

interface ShapesProps {
  shapes: readonly Shape[];
  written: string | null;
  isReachable: boolean;
}

/** All shapes, which need not be looked through because somebody points elsewhere. */
const Shapes = memo(function Shapes({ shapes, written, isReachable }: ShapesProps) {
  return shapes.map((shape) => (
    <ShapeView key={shape.id} shape={shape} isWritten={shape.id === written} isReachable={isReachable} />
  ));
});

/** Dots that move with the page, closer together or further apart with the zoom, but never a grey mass. */
function gridOf({ x, y, zoom }: Camera): React.CSSProperties {
  let step = 24 * zoom;
  while (step < 14) step *= 2;
  while (step > 48) step /= 2;
  return { backgroundSize: `${step}px ${step}px`, backgroundPosition: `${x}px ${y}px` };
}

function onScreen({ x, y, zoom }: Camera, box: Box, edge: number) {
  return {
    x: box.x * zoom + x - edge,
    y: box.y * zoom + y - edge,
    width: box.w * zoom + 2 * edge,
    height: box.h * zoom + 2 * edge,
  };
}

interface SelectionProps {
  around: Box;
  /** The one shape that is selected, if it is one. */
  only: Shape | undefined;
  camera: Camera;
  canEdit: boolean;
}

function Selection({ around, only, camera, canEdit }: SelectionProps) {
  const { x, y, width, height } = onScreen(camera, around, 4);
  if (only?.type === 'arrow') {
    const ends = [0, 1].map((end) => {
      const at = { x: only.x + end * only.props.dx, y: only.y + end * only.props.dy };
      return (
        <circle
          key={end}
          className="handle"
          data-handle={end === 0 ? 'start' : 'end'}
          cx={at.x * camera.zoom + camera.x}
          cy={at.y * camera.zoom + camera.y}
          r={6}
        />
      );
    });
    return canEdit ? ends : null;
  }
  return (
    <>
      <rect className="selected" x={x} y={y} width={width} height={height} />
      {canEdit &&
        CORNERS.map(({ name, right, bottom }) => (
          <rect
            key={name}
            className={`handle ${name}`}
            data-handle={name}
            x={x + right * width - 5}
            y={y + bottom * height - 5}
            width={10}
            height={10}
            rx={3}
          />
        ))}
    </>
  );
}

/** Where somebody else points. */
function Cursor({ peer, camera }: { peer: Peer; camera: Camera }) {
  if (!peer.cursor) return null;
  const [x, y] = [peer.cursor.x * camera.zoom + camera.x, peer.cursor.y * camera.zoom + camera.y];
  return (
    <div className="cursor" style={{ transform: `translate(${x}px, ${y}px)`, '--of': peer.color } as React.CSSProperties}>
      <svg viewBox="0 0 20 20" width="20" height="20" aria-hidden="true">
        <path d="M3 2l5.500 14.500 2.300-6 6-2.300z" />
      </svg>
      <span>{peer.name}</span>
    </div>
  );
}

/** Writes the text of a shape, where it stands. */
function Writing({ editor, shape, camera }: { editor: Editor; shape: Shape; camera: Camera }) {
  const field = useRef<HTMLTextAreaElement>(null);
  useEffect(() => {
    field.current?.focus({ preventScroll: true });
    field.current?.select();
  }, []);
  if (shape.type !== 'text' && shape.type !== 'rectangle') return null;
  const { x, y, zoom } = camera;
  const isText = shape.type === 'text';
  const size = isText ? shape.props.size : TEXT_SIZE;
  const lines = isText ? shape.props.text.split('\n') : linesIn(shape.props.text, shape.props.w - 16);
  const height = lines.length * size * LINE_HEIGHT;
  const box = boxOf(shape);
  const style: React.CSSProperties = {
    left: x + (isText ? box.x : box.x + 8) * zoom,
    top: y + (isText ? box.y : box.y + (box.h - height) / 2) * zoom,
    width: (isText ? box.w + size : Math.max(box.w - 16, size)) * zoom,
    height: height * zoom,
    fontSize: size * zoom,
    lineHeight: LINE_HEIGHT,
    textAlign: isText ? 'left' : 'center',
    whiteSpace: isText ? 'pre' : 'pre-wrap',
    color: `var(--draw-${shape.props.color})`,
  };
  const stay = (event: PointerEvent) => event.stopPropagation();
  return (
    <textarea
      ref={field}
      className="writing"
      aria-label="Text"
      style={style}
      value={shape.props.text}
      spellCheck={false}
      onPointerDown={stay}
      onChange={(event) => editor.replace([shape], [withProps(shape, { text: event.target.value })])}
      onBlur={() => editor.written()}
      onKeyDown={(event) => {
        event.stopPropagation();
        if (event.key === 'Escape' || (event.key === 'Enter' && (event.ctrlKey || event.metaKey))) {
          editor.written();
          event.preventDefault();
        }
      }}
    />
  );
}
