/**
 * Addresses of the kernel, which say where it has put itself, belong neither in the log nor in labels, both of which more
 * people read than may sample the kernel. Clients name them in breakpoints (`mem:0xffffffff81000000`).
 */

/** The upper half of the address space, 0xffff800000000000 and above (and with five levels of page tables 0xff…). */
const HEXADECIMAL = /\b(?:0x)?ff[0-9a-f]{14}\b/gi;
/** The same in decimal: 18374686479671623680 (0xff00000000000000) to 18446744073709551615. */
const DECIMAL = /\b18(?:3[7-9]|4[0-4])\d{16}\b/g;

export const HIDDEN_ADDRESS = "(kernel address)";

/** As a number of its own in JSON, where no text may stand. */
const JSON_NUMBER = /(?<=[:,[])18(?:3[7-9]|4[0-4])\d{16}(?=[,}\]])/g;

/** `text` with HIDDEN_ADDRESS in place of what looks like an address of the kernel; a line of JSON stays one. */
export function withoutKernelAddresses(text: string): string {
  return text.replace(JSON_NUMBER, "null").replace(HEXADECIMAL, HIDDEN_ADDRESS).replace(DECIMAL, HIDDEN_ADDRESS);
}
