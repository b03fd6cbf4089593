"""A consumer that shares no code with the project: Python's gRPC, stubs generated from proto/nmi.proto.

Prints what it saw as one JSON object; python-client.test.ts judges it.
Usage: client.py STUBS_DIR ADDRESS
"""

import json
import sys
import threading

sys.path.insert(0, sys.argv[1])

import grpc  # noqa: E402
import nmi_pb2 as pb  # noqa: E402
import nmi_pb2_grpc  # noqa: E402

CALL_TIMEOUT_S = 10
STREAM_TIMEOUT_S = 30
SAMPLES_BEFORE_REMOVAL = 2000
COLUMNS = ("time", "ip", "pid", "tid", "cpu", "period")


def code_of(call, *args):
    """The name of the status that a call fails with, with its message; OK where it does not fail."""
    try:
        call(*args, timeout=CALL_TIMEOUT_S)
        return {"code": "OK", "message": ""}
    except grpc.RpcError as error:
        return {"code": error.code().name, "message": error.details()}


def health(channel):
    """The serving status, or None where the stubs of the health service are not installed."""
    try:
        from grpc_health.v1 import health_pb2, health_pb2_grpc
    except ImportError:
        return None
    answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=CALL_TIMEOUT_S)
    return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)


def stream(broker, handler_id):
    """Reads from `started` to `end`; a second thread deregisters while samples flow."""
    seen = {
        "kinds": [],
        "received": 0,
        "batches": 0,
        "uneven_batches": 0,
        "sequence_breaks": 0,
        "lost": 0,
        "period_sum": 0,
        "after_end": 0,
    }
    books = {}
    enough = threading.Event()

    def remove():
        enough.wait(STREAM_TIMEOUT_S)
        answer = broker.Deregister(pb.DeregisterRequest(handler_id=handler_id), timeout=STREAM_TIMEOUT_S)
        books.update(
            matched=answer.matched,
            delivered=answer.delivered,
            lost=answer.lost,
            waited_ns=answer.waited_ns,
            last_sequence=answer.last_sequence,
        )

    remover = threading.Thread(target=remove)
    remover.start()
    next_sequence = 0
    try:
        for delivery in broker.Subscribe(pb.SubscribeRequest(handler_id=handler_id), timeout=STREAM_TIMEOUT_S):
            kind = delivery.WhichOneof("delivery")
            if seen["kinds"][-1:] != [kind]:
                seen["kinds"].append(kind)
            if "end" in seen:
                seen["after_end"] += 1
            elif kind == "started":
                next_sequence = delivery.started.next_sequence
                seen["source"] = delivery.started.source
                seen["clock"] = delivery.started.clock
            elif kind == "samples":
                batch = delivery.samples
                lengths = {len(getattr(batch, column)) for column in COLUMNS}
                count = len(batch.time)
                seen["batches"] += 1
                seen["uneven_batches"] += lengths != {count}
                seen["sequence_breaks"] += batch.sequence != next_sequence
                seen["received"] += count
                seen["period_sum"] += sum(batch.period)
                next_sequence = batch.sequence + count
            elif kind == "loss" and delivery.loss.reason != pb.KERNEL:
                # Losses are numbered like samples; those of the kernel belong to no handler.
                next_sequence += delivery.loss.count
                seen["lost"] += delivery.loss.count
            elif kind == "end":
                end = delivery.end
                seen["end"] = {
                    "matched": end.matched,
                    "delivered": end.delivered,
                    "lost": end.lost,
                    "reason": pb.EndReason.Name(end.reason),
                    "period_delivered": sum(event.period_delivered for event in end.events),
                }
            if seen["received"] >= SAMPLES_BEFORE_REMOVAL:
                enough.set()
    finally:
        enough.set()
        remover.join()
    seen["next_sequence"] = next_sequence
    seen["books"] = books
    return seen


def main():
    # Subscribe and Deregister run side by side on this channel.
    with grpc.insecure_channel(sys.argv[2]) as channel:
        broker = nmi_pb2_grpc.BrokerStub(channel)
        status = broker.GetStatus(pb.GetStatusRequest(), timeout=CALL_TIMEOUT_S, wait_for_ready=True)
        events = broker.ListEvents(pb.ListEventsRequest(), timeout=CALL_TIMEOUT_S)

        request = pb.RegisterRequest(
            name="python",
            events=[pb.EventSpec()],
            queue=pb.Queue(overflow=pb.DROP_NEWEST, flush_interval_ms=10),
            lease_ms=5000,
        )
        registered = broker.Register(request, timeout=CALL_TIMEOUT_S)
        duplicate = code_of(broker.Register, request)
        unknown = pb.RegisterRequest(name="unknown-event", events=[pb.EventSpec(event="no-such-event")])
        unknown_event = code_of(broker.Register, unknown)
        listed = broker.ListHandlers(pb.ListHandlersRequest(), timeout=CALL_TIMEOUT_S).handlers

        seen = stream(broker, registered.handler_id)
        stale = pb.DeregisterRequest(handler_id=registered.handler_id)
        result = {
            "health": health(channel),
            "status": {"source": status.source, "default_event": status.default_event, "pid": status.pid},
            "events": [event.name for event in events.events],
            "default_event": events.default_event,
            "resolved": [event.name for event in registered.events],
            "duplicate": duplicate,
            "unknown_event": unknown_event,
            "listed": [handler.name for handler in listed],
            "stream": seen,
            "stale_deregister": code_of(broker.Deregister, stale),
            "stale_subscribe": code_of(
                lambda request, timeout: list(broker.Subscribe(request, timeout=timeout)),
                pb.SubscribeRequest(handler_id=registered.handler_id),
            ),
            "listed_afterwards": [
                handler.name for handler in broker.ListHandlers(pb.ListHandlersRequest(), timeout=CALL_TIMEOUT_S).handlers
            ],
        }
        json.dump(result, sys.stdout)


main()
