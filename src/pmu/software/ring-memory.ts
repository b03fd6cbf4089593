/** Rings in the kernel's format that belong to no kernel event: anonymous memory, and an eventfd in place of the perf fd. */
import { MMAP_PAGE, PAGE_BYTES } from "../abi.js";
import { closeFd, eventfd, mapAnonymous, unmap, viewMemory } from "../ffi.js";
import type { RingDescriptor } from "../source.js";

/** Throws Errno when the process is out of memory or file descriptors. */
export function openSoftwareRing(cpu: number, dataBytes: number): RingDescriptor {
  if (dataBytes < PAGE_BYTES || (dataBytes & (dataBytes - 1)) !== 0) {
    throw new RangeError(`ring of ${dataBytes} bytes: not a power of two of at least ${PAGE_BYTES}`);
  }
  const pollFd = eventfd();
  let address: bigint;
  try {
    address = mapAnonymous(PAGE_BYTES + dataBytes);
  } catch (error) {
    closeFd(pollFd);
    throw error;
  }
  initializeControlPage(viewMemory(address, PAGE_BYTES), dataBytes);
  return { cpu, address, dataBytes, pollFd, pollKind: "eventfd" };
}

/** Fills in what the kernel fills in when it maps a ring: where the data is. Head and tail are 0 already. */
export function initializeControlPage(memory: ArrayBuffer, dataBytes: number): void {
  const control = new BigUint64Array(memory, 0, PAGE_BYTES / 8);
  control[MMAP_PAGE.DATA_OFFSET / 8] = BigInt(PAGE_BYTES);
  control[MMAP_PAGE.DATA_SIZE / 8] = BigInt(dataBytes);
}

/** All rings or none. */
export function openSoftwareRings(cpus: readonly number[], dataBytes: number): RingDescriptor[] {
  const rings: RingDescriptor[] = [];
  try {
    for (const cpu of cpus) rings.push(openSoftwareRing(cpu, dataBytes));
  } catch (error) {
    closeSoftwareRings(rings);
    throw error;
  }
  return rings;
}

/** Once only, and when no thread looks at the memory any more. */
export function closeSoftwareRings(rings: readonly RingDescriptor[]): void {
  for (const ring of rings) {
    unmap(ring.address, PAGE_BYTES + ring.dataBytes);
    closeFd(ring.pollFd);
  }
}
