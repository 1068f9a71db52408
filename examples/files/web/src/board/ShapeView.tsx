// How shapes look, in the colours of the page, which differ between light and dark.

import { memo } from 'react';
import { LINE_HEIGHT, TEXT_SIZE, linesIn } from './shapes';
import type { Point, Shape } from './shapes';

interface Props {
  shape: Shape;
  /** Whether its text is being written, over it. */
  isWritten?: boolean;
  /** Whether one comes to it with the keyboard. */
  isReachable?: boolean;
}

/** One shape. It is drawn again only if it has changed. */
export const ShapeView = memo(function ShapeView({ shape, isWritten, isReachable }: Props) {
  return (
    <g
      data-shape={shape.id}
      className={`shape ${shape.type}`}
      style={{ '--ink': `var(--draw-${shape.props.color})` } as React.CSSProperties}
      transform={`translate(${shape.x} ${shape.y})`}
      role="img"
      tabIndex={isReachable ? 0 : undefined}
      aria-label={labelOf(shape)}
    >
      <Drawn shape={shape} isWritten={isWritten} />
    </g>
  );
});

function Drawn({ shape, isWritten }: { shape: Shape; isWritten: boolean | undefined }) {
  switch (shape.type) {
    case 'rectangle': {
      const { w, h, text } = shape.props;
      const lines = isWritten || text === '' ? [] : linesIn(text, w - 16);
      return (
        <>
          <rect width={w} height={h} rx={Math.min(8, w / 4, h / 4)} />
          <Lines lines={lines} size={TEXT_SIZE} x={w / 2} y={h / 2 - (lines.length * TEXT_SIZE * LINE_HEIGHT) / 2} isCentred />
        </>
      );
    }
    case 'arrow': {
      const { dx, dy } = shape.props;
      const line = `M0 0L${dx} ${dy}`;
      return (
        <>
          <path className="hit" d={line} />
          <path d={`${line}${headOf({ x: dx, y: dy })}`} />
        </>
      );
    }
    case 'text': {
      const { text, size } = shape.props;
      return isWritten ? null : <Lines lines={text.split('\n')} size={size} x={0} y={0} />;
    }
    case 'draw': {
      const line = smooth(shape.props.points);
      return (
        <>
          <path className="hit" d={line} />
          <path d={line} />
        </>
      );
    }
  }
}

interface LinesProps {
  lines: readonly string[];
  size: number;
  x: number;
  /** The upper edge. */
  y: number;
  isCentred?: boolean;
}

function Lines({ lines, size, x, y, isCentred = false }: LinesProps) {
  return (
    <text fontSize={size} textAnchor={isCentred ? 'middle' : 'start'}>
      {lines.map((line, at) => (
        // A line is known by where it is.
        <tspan key={at} x={x} y={y + (at + 0.5) * size * LINE_HEIGHT} dominantBaseline="central">
          {line}
        </tspan>
      ))}
    </text>
  );
}

/** What it is, for those who do not see it. */
function labelOf(shape: Shape): string {
  switch (shape.type) {
    case 'rectangle':
      return shape.props.text === '' ? 'Rectangle' : `Rectangle: ${shape.props.text}`;
    case 'arrow':
      return 'Arrow';
    case 'text':
      return `Text: ${shape.props.text}`;
    case 'draw':
      return 'Line';
  }
}

/** The head of an arrow that points from nothing to `end`. */
function headOf({ x, y }: Point): string {
  const length = Math.hypot(x, y);
  if (length === 0) return '';
  const size = Math.min(14, length / 2);
  const angle = Math.atan2(y, x);
  const side = (turn: number) =>
    `${(x - size * Math.cos(angle + turn)).toFixed(1)} ${(y - size * Math.sin(angle + turn)).toFixed(1)}`;
  return `M${side(0.5)}L${x} ${y}L${side(-0.5)}`;
}

/** A line through points without corners: each point bends it, and it passes between them. */
function smooth(points: readonly number[]): string {
  const [x = 0, y = 0] = points;
  if (points.length < 6) return `M${x} ${y}L${points[2] ?? x + 0.1} ${points[3] ?? y}`;
  let path = `M${x} ${y}`;
  for (let at = 2; at + 3 < points.length; at += 2) {
    const [ax = 0, ay = 0, bx = 0, by = 0] = points.slice(at, at + 4);
    path += `Q${ax} ${ay} ${((ax + bx) / 2).toFixed(1)} ${((ay + by) / 2).toFixed(1)}`;
  }
  return `${path}L${points.at(-2)} ${points.at(-1)}`;
}
