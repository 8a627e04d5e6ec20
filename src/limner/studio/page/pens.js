// The icons of the tools, shared by the canvas for hints and the brush for masks.

export const PATHS = {
  brush: "M20 4c-4 2-9 7-11 10M9 14c-3 0-2 4-5 5 3 2 8 1 7-3-.3-1.300-1-2-2-2z",
  eraser: "M8 20h12M5 15l9-10 6 6-8 9H9z M10 9.500l6 6",
  line: "M5 19L19 5",
  ellipse: "M12 6c5 0 8.500 2.700 8.500 6S17 18 12 18s-8.500-2.700-8.500-6S7 6 12 6z",
  rectangle: "M4 6h16v12H4z",
  box: "M4 5h16v14H4zM9 9.500h6M12 9.500V15",
  open: "M12 16V4M7 9l5-5 5 5M5 20h14",
  undo: "M8 5L4 9l4 4M4 9h9a6 6 0 0 1 0 12h-2",
  redo: "M16 5l4 4-4 4M20 9h-9a6 6 0 0 0 0 12h2",
  invert: "M12 4a8 8 0 1 0 0 16zM12 4a8 8 0 0 1 0 16",
  closer: "M11 4a7 7 0 1 0 0 14 7 7 0 0 0 0-14zM16 16l4.500 4.500M8 11h6M11 8v6",
  farther: "M11 4a7 7 0 1 0 0 14 7 7 0 0 0 0-14zM16 16l4.500 4.500M8 11h6",
};
