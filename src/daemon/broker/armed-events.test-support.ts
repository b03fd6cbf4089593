/** For tests of armed events: on a fake source, with what the dispatchers and the kernel were told in its log. */
import { type ArmedEvent, ArmedEvents, type EventUser } from "./armed-events.js";
import { FakeSource } from "./fake-source.test-support.js";

export interface Fixture {
  readonly source: FakeSource;
  readonly armed: ArmedEvents;
  readonly retired: number[];
  readonly problems: string[];
  user(event: string, rate?: { hz?: number; period?: number }, shape?: Partial<EventUser>): EventUser;
  /** Acquires and starts one event, as a registration does. */
  join(user: EventUser): Promise<ArmedEvent>;
  leave(armed: ArmedEvent, user: EventUser): Promise<void>;
}

export function setUp(source = new FakeSource()): Fixture {
  const retired: number[] = [];
  const problems: string[] = [];
  const armed = new ArmedEvents({
    source,
    tellAll: source.tellAll,
    onArmed: ({ index }) => source.log.push(`armed ${index}`),
    onRetired: ({ index }) => {
      retired.push(index);
      source.log.push(`retired ${index}`);
    },
    onProblem: (_armed, error) => problems.push(error.message),
  });
  return {
    source,
    armed,
    retired,
    problems,
    user: (event, { hz = 0, period = 0 } = {}, shape = {}) => ({
      event: source.resolve({ event, frequencyHz: hz, period })[0],
      sampleType: 0,
      branchCounters: false,
      wakeEach: false,
      ...shape,
    }),
    join: async (user) => {
      const [event] = await armed.acquire([user]);
      await armed.start([event]);
      return event;
    },
    leave: (event, user) => armed.release([event], [user]),
  };
}
