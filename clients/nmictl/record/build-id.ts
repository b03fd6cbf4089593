/** Build ids of what was mapped: ELF notes of files, and the kernel's own in sysfs. */
import { closeSync, fstatSync, openSync, readdirSync, readFileSync, readSync } from "node:fs";
import type { Mmap } from "../../typescript/index.js";
import type { MappedBuildId } from "./writer.js";

const ELF_MAGIC = 0x464c457f;
/** elf.h */
const ELFCLASS64 = 2;
const ELFDATA2LSB = 1;
const PT_NOTE = 4;
const NT_GNU_BUILD_ID = 3;
const PROGRAM_HEADERS_MAX = 256;
const NOTES_BYTES_MAX = 64 * 1024;
const PROT_EXEC = 4;
/** Files remembered of one recording. */
const FILES_MAX = 65_536;
const KERNEL_PID = 0xffff_ffff;

/** The id in a run of ELF notes, each aligned to `alignment`; undefined where there is none. */
export function buildIdOfNotes(notes: Uint8Array, alignment = 4): Uint8Array | undefined {
  const view = new DataView(notes.buffer, notes.byteOffset, notes.byteLength);
  const align = (length: number) => Math.ceil(length / alignment) * alignment;
  for (let at = 0; at + 12 <= notes.length; ) {
    const nameBytes = view.getUint32(at, true);
    const idBytes = view.getUint32(at + 4, true);
    const type = view.getUint32(at + 8, true);
    const name = at + 12;
    const id = name + align(nameBytes);
    if (id + idBytes > notes.length) return undefined;
    const gnu = nameBytes === 4 && String.fromCharCode(...notes.subarray(name, name + 4)) === "GNU\0";
    if (gnu && type === NT_GNU_BUILD_ID) return notes.slice(id, id + idBytes);
    at = id + align(idBytes);
  }
  return undefined;
}

/** The build id of an ELF file, of 64 or 32 bits; undefined where it has none, or is none. Throws what reading throws. */
export function buildIdOfFile(fd: number): Uint8Array | undefined {
  const read = (offset: number, length: number) => {
    const bytes = Buffer.alloc(length);
    return bytes.subarray(0, readSync(fd, bytes, 0, length, offset));
  };
  const head = read(0, 64);
  if (head.length < 52 || head.readUInt32LE(0) !== ELF_MAGIC || head[5] !== ELFDATA2LSB) return undefined;
  const wide = head[4] === ELFCLASS64;
  if (wide && head.length < 64) return undefined;
  const at = wide ? Number(head.readBigUInt64LE(32)) : head.readUInt32LE(28);
  const entryBytes = head.readUInt16LE(wide ? 54 : 42);
  const entries = Math.min(head.readUInt16LE(wide ? 56 : 44), PROGRAM_HEADERS_MAX);
  const table = read(at, entryBytes * entries);
  for (let i = 0; (i + 1) * entryBytes <= table.length; i++) {
    const entry = table.subarray(i * entryBytes, (i + 1) * entryBytes);
    if (entry.length < (wide ? 56 : 32) || entry.readUInt32LE(0) !== PT_NOTE) continue;
    const offset = wide ? Number(entry.readBigUInt64LE(8)) : entry.readUInt32LE(4);
    const size = wide ? Number(entry.readBigUInt64LE(32)) : entry.readUInt32LE(16);
    const alignment = wide ? Number(entry.readBigUInt64LE(48)) : entry.readUInt32LE(28);
    const id = buildIdOfNotes(read(offset, Math.min(size, NOTES_BYTES_MAX)), alignment === 8 ? 8 : 4);
    if (id !== undefined) return id;
  }
  return undefined;
}

/** Remembers what is mapped, and looks for its build ids when asked: a file that was replaced since has another inode. */
export class MappedFiles {
  readonly #files = new Map<string, Mmap>();

  add(mmap: Mmap): void {
    const kernel = mmap.pid === KERNEL_PID;
    // Mappings that carry their id need no other, and [stack] and //anon are no files.
    if (mmap.buildId.length > 0 || this.#files.size >= FILES_MAX) return;
    if (!kernel && ((mmap.prot & PROT_EXEC) === 0 || !/^\/[^/]/.test(mmap.filename))) return;
    if (!this.#files.has(mmap.filename)) this.#files.set(mmap.filename, mmap);
  }

  buildIds(): readonly MappedBuildId[] {
    const found: MappedBuildId[] = [];
    for (const [filename, mmap] of this.#files) {
      const kernel = mmap.pid === KERNEL_PID;
      const buildId = attempt(() => (kernel ? kernelBuildId(filename) : fileBuildId(mmap)));
      // The kernel's map is named by the symbol that it was placed by: [kernel.kallsyms]_text.
      const name = kernel ? filename.replace(/^(\[kernel\.kallsyms\]).*/, "$1") : filename;
      if (buildId !== undefined) found.push({ filename: name, buildId, kernel });
    }
    return found;
  }
}

function fileBuildId(mmap: Mmap): Uint8Array | undefined {
  // In a container the name is one of its own mount namespace.
  for (const path of [mmap.filename, `/proc/${mmap.pid}/root${mmap.filename}`]) {
    const id = attempt(() => {
      const fd = openSync(path, "r");
      try {
        const { ino } = fstatSync(fd, { bigint: true });
        return mmap.ino !== 0n && ino !== mmap.ino ? undefined : buildIdOfFile(fd);
      } finally {
        closeSync(fd);
      }
    });
    if (id !== undefined) return id;
  }
  return undefined;
}

function kernelBuildId(filename: string): Uint8Array | undefined {
  if (filename.startsWith("[kernel")) return buildIdOfNotes(readFileSync("/sys/kernel/notes"));
  // [name], or the path of the module's file; sysfs has underscores where file names may have dashes.
  const module = /^\[([^\]]+)\]$/.exec(filename)?.[1] ?? /([^/]+)\.ko(?:\.\w+)?$/.exec(filename)?.[1];
  if (module === undefined) return undefined;
  const directory = `/sys/module/${module.replaceAll("-", "_")}/notes`;
  for (const name of readdirSync(directory)) {
    const id = buildIdOfNotes(readFileSync(`${directory}/${name}`));
    if (id !== undefined) return id;
  }
  return undefined;
}

/** What cannot be read has no build id: files go, and belong to others. */
function attempt(look: () => Uint8Array | undefined): Uint8Array | undefined {
  try {
    return look();
  } catch {
    return undefined;
  }
}
