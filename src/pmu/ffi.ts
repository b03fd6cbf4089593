/**
 * The one file that imports the FFI library: raw system calls, typed. Nothing else in nmid may import koffi.
 *
 * Every call answers as the C library does; `Errno` carries what went wrong. Callers own what they open and map.
 */
import koffi from "koffi";
import { PAGE_BYTES } from "./abi.js";
import { CPUS_MAX } from "./cpu-list.js";

const libc = koffi.load("libc.so.6");

const cSyscallPerfEventOpen = libc.func(
  "long syscall(long number, void *attr, int pid, int cpu, int group_fd, unsigned long flags)",
);
const cMmap = libc.func("void *mmap(void *addr, size_t length, int prot, int flags, int fd, int64_t offset)");
const cMunmap = libc.func("int munmap(uintptr_t addr, size_t length)");
const cPoll = libc.func("int poll(void *fds, unsigned long nfds, int timeout)");
const cEventfd = libc.func("int eventfd(unsigned int initval, int flags)");
const cReadBuffer = libc.func("long read(int fd, void *buf, size_t count)");
const cWriteBuffer = libc.func("long write(int fd, void *buf, size_t count)");
const cClose = libc.func("int close(int fd)");
const cIoctlValue = libc.func("int ioctl(int fd, unsigned long request, unsigned long value)");
const cFlock = libc.func("int flock(int fd, int operation)");
const cSocket = libc.func("int socket(int domain, int type, int protocol)");
const cSendto = libc.func(
  "long sendto(int fd, void *buf, size_t length, int flags, void *address, uint32 address_length)",
);
const cSchedSetaffinity = libc.func("int sched_setaffinity(int pid, size_t size, void *mask)");
const cSchedGetaffinity = libc.func("int sched_getaffinity(int pid, size_t size, void *mask)");
const cPrctlName = libc.func("prctl", "int", ["int", "str", "unsigned long", "unsigned long", "unsigned long"]);
const cGetsockopt = libc.func("int getsockopt(int fd, int level, int name, void *value, void *length)");
const cGetsockname = libc.func("int getsockname(int fd, void *address, void *length)");
const cGetgrnam = libc.func("void *getgrnam(const char *name)");
const cIoctlPointer = libc.func("ioctl", "int", ["int", "unsigned long", "void *"]);

export class Errno extends Error {
  override readonly name = "Errno";
  readonly call: string;
  readonly errno: number;
  readonly code: string;
  constructor(call: string, errno: number) {
    const code = ERRNO_NAME.get(errno) ?? `errno ${errno}`;
    super(`${call}: ${code}`);
    this.call = call;
    this.errno = errno;
    this.code = code;
  }
}

const ERRNO_NAME = new Map<number, string>(Object.entries(koffi.os.errno).map(([name, value]) => [value, name]));

function check(call: string, result: number): number {
  if (result < 0) throw new Errno(call, koffi.errno());
  return result;
}

const SYS_PERF_EVENT_OPEN = 298; // x86-64, arch/x86/entry/syscalls/syscall_64.tbl

/** perf_event_open(2). `attr` holds struct perf_event_attr; its size field says how much of it counts. */
export function perfEventOpen(attr: Uint8Array, pid: number, cpu: number, groupFd: number, flags: number): number {
  return check("perf_event_open", cSyscallPerfEventOpen(SYS_PERF_EVENT_OPEN, attr, pid, cpu, groupFd, flags));
}

export function ioctl(fd: number, request: number, value: number): void {
  check("ioctl", cIoctlValue(fd, request, value));
}

/** For requests that take a pointer: the kernel reads from or writes to `data`. */
export function ioctlPointer(fd: number, request: number, data: BigUint64Array): void {
  check("ioctl", cIoctlPointer(fd, request, data));
}

const PROT_READ_WRITE = 3;
const MAP_SHARED = 1;
const MAP_ANONYMOUS = 0x20;

/** Maps `length` bytes of `fd` from `offset` on, shared and writable; returns the address, which any thread of this process may view. */
export function mapShared(fd: number, length: number, offset = 0): bigint {
  return address(cMmap(null, length, PROT_READ_WRITE, MAP_SHARED, fd, offset));
}

/** Maps `length` zeroed bytes that belong to no file. */
export function mapAnonymous(length: number): bigint {
  return address(cMmap(null, length, PROT_READ_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
}

function address(pointer: unknown): bigint {
  const result = koffi.address(pointer);
  if (BigInt.asIntN(64, result) === -1n) throw new Errno("mmap", koffi.errno());
  return result;
}

export function unmap(addr: bigint, length: number): void {
  check("munmap", cMunmap(addr, length));
}

/**
 * A view of mapped memory. Valid in the calling thread only: a view sent to a worker is copied silently, so send the
 * address. Using it after the mapping is gone is a segmentation fault: its owner unmaps last.
 */
export function viewMemory(addr: bigint, length: number): ArrayBuffer {
  return koffi.view(addr, length);
}

export const POLLIN = 1;
export const POLLERR = 8;
export const POLLHUP = 16;

/** poll(2) on `struct pollfd` pairs: fd in word 2i, events (low half) and revents (high half) in word 2i + 1. */
export function poll(fds: Int32Array, count: number, timeoutMs: number): number {
  const ready = cPoll(fds, count, timeoutMs);
  if (ready >= 0) return ready;
  const errno = koffi.errno();
  if (errno === koffi.os.errno.EINTR) return 0;
  throw new Errno("poll", errno);
}

const EFD_CLOEXEC = 0o2000000;
const EFD_NONBLOCK = 0o4000;

export function eventfd(): number {
  return check("eventfd", cEventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
}

const one = new BigUint64Array([1n]);

/** Makes an eventfd readable. */
export function signalEventfd(fd: number): void {
  check("write", cWriteBuffer(fd, one, 8));
}

const drained = new BigUint64Array(1);

/** Makes an eventfd unreadable again; nothing happens when it already is. */
export function clearEventfd(fd: number): void {
  cReadBuffer(fd, drained, 8);
}

/** Reads up to `buffer.byteLength` bytes and says how many there were. */
export function readInto(fd: number, buffer: BigUint64Array): number {
  return check("read", cReadBuffer(fd, buffer, buffer.byteLength));
}

export function closeFd(fd: number): void {
  check("close", cClose(fd));
}

const LOCK_EX = 2;
const LOCK_NB = 4;

/** Locks the file for as long as it stays open, which a process that dies ends too; false when another holds it. */
export function tryLock(fd: number): boolean {
  if (cFlock(fd, LOCK_EX | LOCK_NB) === 0) return true;
  const errno = koffi.errno();
  if (errno === koffi.os.errno.EWOULDBLOCK) return false;
  throw new Errno("flock", errno);
}

const AF_UNIX = 1;
const SOCK_DGRAM = 2;
const SOCK_CLOEXEC = 0o2000000;
const MSG_DONTWAIT = 0x40;
const MSG_NOSIGNAL = 0x4000;
/** sockaddr_un: sun_family, then sun_path. */
const SUN_PATH_OFFSET = 2;

/** A Unix datagram socket without a name, which Node has no sockets for. */
export function unixDatagramSocket(): number {
  return check("socket", cSocket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
}

/**
 * Sends one datagram, to the socket of this name: a path, or `@` and an abstract name, as systemd writes them. Does not
 * wait: false when the receiver's queue is full.
 */
export function sendToUnix(fd: number, name: string, message: Uint8Array): boolean {
  const path = Buffer.from(name);
  if (path[0] === 0x40) path[0] = 0;
  const address = Buffer.alloc(SUN_PATH_OFFSET + path.length);
  address.writeUInt16LE(AF_UNIX, 0);
  path.copy(address, SUN_PATH_OFFSET);
  const flags = MSG_DONTWAIT | MSG_NOSIGNAL;
  if (cSendto(fd, message, message.byteLength, flags, address, address.length) >= 0) return true;
  const errno = koffi.errno();
  if (errno === koffi.os.errno.EAGAIN) return false;
  throw new Errno("sendto", errno);
}

const CALLING_THREAD = 0;

/** The kernel leaves CPUs out that the process's cpuset has not, and refuses with EINVAL where none is left. */
export function setThreadAffinity(cpus: readonly number[]): void {
  const mask = new Uint32Array(CPUS_MAX / 32);
  for (const cpu of cpus) {
    if (!(cpu >= 0 && cpu < CPUS_MAX)) throw new RangeError(`CPU ${cpu}: not between 0 and ${CPUS_MAX - 1}`);
    mask[cpu >>> 5] |= 1 << (cpu & 31);
  }
  check("sched_setaffinity", cSchedSetaffinity(CALLING_THREAD, mask.byteLength, mask));
}

/** The CPUs that the calling thread may run on, in order. */
export function threadAffinity(): number[] {
  const mask = new Uint32Array(CPUS_MAX / 32);
  check("sched_getaffinity", cSchedGetaffinity(CALLING_THREAD, mask.byteLength, mask));
  return Array.from({ length: CPUS_MAX }, (_, cpu) => cpu).filter((cpu) => (mask[cpu >>> 5] >>> (cpu & 31)) & 1);
}

const PR_SET_NAME = 15;

/** What `top -H` and /proc show of the calling thread; the kernel keeps 15 bytes. */
export function setThreadName(name: string): void {
  check("prctl", cPrctlName(PR_SET_NAME, name, 0, 0, 0));
}

const SOL_SOCKET = 1;
const sockLength = new Uint32Array(1);

/** getsockopt(2) at SOL_SOCKET: writes what there is into `value` and says how many bytes that was. */
export function socketOption(fd: number, option: number, value: Uint32Array): number {
  sockLength[0] = value.byteLength;
  check("getsockopt", cGetsockopt(fd, SOL_SOCKET, option, value, sockLength));
  return sockLength[0];
}

/** getsockname(2): the sockaddr that the socket is bound to, as long as it is, up to `address.length`. */
export function socketName(fd: number, address: Uint8Array): Uint8Array {
  sockLength[0] = address.byteLength;
  check("getsockname", cGetsockname(fd, address, sockLength));
  return address.subarray(0, Math.min(address.length, sockLength[0]));
}

/** struct group of grp.h: two pointers, then gr_gid. */
const GR_GID_OFFSET = 16;

/** The id of a group by its name, as the system's name service has it; null where there is none of that name. */
export function groupId(name: string): number | null {
  const group: unknown = cGetgrnam(name);
  return group === null ? null : (koffi.decode(group, GR_GID_OFFSET, "uint32_t") as number);
}

/** perfmon/pfmlib.h */
const PFM_OS_PERF_EVENT = 1;
const PFM_PLM_USER_AND_KERNEL = 0x9;
/** pfm_perf_encode_arg_t: attr, fstr, size, idx, cpu, flags. */
const PFM_ARG_BYTES = 40;
const PFM_ARG_SIZE_OFFSET = 16;
const PFM_ATTR_BYTES = 128;

export interface PfmAttr {
  readonly type: number;
  readonly config: bigint;
  readonly config1: bigint;
  readonly config2: bigint;
}

type PfmLibrary = (name: string) => PfmAttr;

let pfmLibrary: PfmLibrary | null | undefined;

/**
 * What libpfm4 makes of an event's name. null where the library is not installed; throws an Error with its words where
 * it does not know the name, or this CPU. The library is loaded when it is first asked for.
 */
export function pfmEncode(name: string): PfmAttr | null {
  pfmLibrary ??= loadPfm();
  return pfmLibrary?.(name) ?? null;
}

function loadPfm(): PfmLibrary | null {
  let library: ReturnType<typeof koffi.load>;
  try {
    library = koffi.load("libpfm.so.4");
  } catch {
    return null;
  }
  const initialize = library.func("int pfm_initialize(void)");
  const describe = library.func("const char *pfm_strerror(int code)");
  const encode = library.func("pfm_get_os_event_encoding", "int", ["str", "int", "int", "uintptr_t"]);
  const checkPfm = (code: number): void => {
    if (code !== 0) throw new Error(String(describe(code)));
  };
  let initialized = false;
  // The library writes through a pointer in its argument, so both stand in one piece of memory with a known address.
  const memory = mapAnonymous(PAGE_BYTES);
  const view = new DataView(viewMemory(memory, PAGE_BYTES));
  return (name) => {
    if (!initialized) checkPfm(initialize());
    initialized = true;
    for (let at = 0; at < PFM_ARG_BYTES + PFM_ATTR_BYTES; at += 8) view.setBigUint64(at, 0n, true);
    view.setBigUint64(0, memory + BigInt(PFM_ARG_BYTES), true);
    view.setBigUint64(PFM_ARG_SIZE_OFFSET, BigInt(PFM_ARG_BYTES), true);
    view.setUint32(PFM_ARG_BYTES + 4, PFM_ATTR_BYTES, true);
    checkPfm(encode(name, PFM_PLM_USER_AND_KERNEL, PFM_OS_PERF_EVENT, memory));
    return {
      type: view.getUint32(PFM_ARG_BYTES, true),
      config: view.getBigUint64(PFM_ARG_BYTES + 8, true),
      config1: view.getBigUint64(PFM_ARG_BYTES + 56, true),
      config2: view.getBigUint64(PFM_ARG_BYTES + 64, true),
    };
  };
}
