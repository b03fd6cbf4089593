/** Events in perf's syntax: what the rest of the project needs of events/. */
export { liveFileTree, recordedFileTree } from "./events/file-tree.js";
export { modifierSuffix } from "./events/modifiers.js";
export { needsCounter, type ParsedEvent } from "./events/parsed-event.js";
export { nearestName } from "./events/piece.js";
export { requestedRate, samplesEachOccurrence } from "./events/rate.js";
export { openEventHost, parseEventSpec, resolveEventSpec, type SingleEvent, splitModifiers } from "./events/resolve.js";
export { type GenericEvent, genericEvents } from "./generic-events.js";
