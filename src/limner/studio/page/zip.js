// A zip archive of files, without compression: pictures are compressed already. Only headers are made; the files stay on the disk until they are sent.

const TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let i = 0; i < 8; i++) n = n & 1 ? (n >>> 1) ^ 0xedb88320 : n >>> 1;
  return n;
});
export const LARGEST = 2 ** 32 - 2 ** 24, MOST = 65_000; // larger archives need another format

export function crc32(bytes) {
  let crc = ~0;
  for (let i = 0; i < bytes.length; i++) crc = (crc >>> 8) ^ TABLE[(crc ^ bytes[i]) & 255];
  return ~crc >>> 0;
}

/** Numbers of two or four bytes, as in [2, 20, 4, size]. */
function packed(...pairs) {
  const view = new DataView(new ArrayBuffer(pairs.reduce((sum, each, i) => sum + (i % 2 ? 0 : each), 0)));
  for (let i = 0, at = 0; i < pairs.length; at += pairs[i], i += 2) {
    if (pairs[i] === 2) view.setUint16(at, pairs[i + 1], true);
    else view.setUint32(at, pairs[i + 1], true);
  }
  return view.buffer;
}

/** An archive of [name, File] pairs; `progress` is called with the number of files read. */
export async function makeArchive(files, progress = () => {}) {
  const parts = [], index = [];
  let at = 0;
  for (const [i, [path, file]] of files.entries()) {
    const name = new TextEncoder().encode(path), crc = crc32(new Uint8Array(await file.arrayBuffer()));
    const about = [2, 20, 2, 0x800, 2, 0, 2, 0, 2, 0x21, 4, crc, 4, file.size, 4, file.size, 2, name.length, 2, 0]; // names are UTF-8, nothing is compressed
    parts.push(packed(4, 0x04034b50, ...about), name, file);
    index.push(packed(4, 0x02014b50, 2, 20, ...about, 2, 0, 2, 0, 2, 0, 4, 0, 4, at), name);
    at += 30 + name.length + file.size;
    progress(i + 1);
  }
  const size = index.reduce((sum, each) => sum + each.byteLength, 0);
  return new Blob([...parts, ...index, packed(4, 0x06054b50, 2, 0, 2, 0, 2, files.length, 2, files.length, 4, size, 4, at, 2, 0)], { type: "application/zip" });
}

/** All dropped files, as [path, File] pairs; folders are walked. */
export async function droppedFiles(items) {
  const entries = [...items].map((item) => item.webkitGetAsEntry?.() ?? item.getAsFile?.()).filter(Boolean), files = [];
  const walk = async (entry) => {
    if (entry instanceof File) files.push([entry.name, entry]); // in a browser without support for folders
    else if (entry.isFile) files.push([entry.fullPath.slice(1), await new Promise((good, bad) => entry.file(good, bad))]);
    else {
      const reader = entry.createReader();
      for (;;) {
        const some = await new Promise((good, bad) => reader.readEntries(good, bad)); // a hundred at a time
        if (!some.length) break;
        for (const each of some) await walk(each);
      }
    }
  };
  for (const entry of entries) await walk(entry);
  return files;
}
