"""The client: calls, tried again while the agent is away, and watches."""

from __future__ import annotations

import dataclasses
import datetime
import random
import sys
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

import grpc

from causeway_node import errors
from causeway_node.model import Attachment, Check, Event, EventType, Node
from causeway_node.v1 import gateways_pb2_grpc, node_pb2, node_pb2_grpc

DEFAULT_SOCKET = "unix:///run/causeway/agent.sock"

_MIN_PAUSE = 0.05  # seconds
_MAX_PAUSE = 2.0
_MAX_RECEIVED = 64 << 20  # bytes, as the agent sends at most


class Client:
    """A connection to the agent of this host, which survives its restarts.

    It may be used by many threads at once. timeout, in seconds, bounds every
    call that is given none of its own. Where the agent is away a call is tried
    again with back-off within that time; once=True raises Unavailable at once.

    attachments, networks, exports, gateways and node are the generated stubs,
    for what the methods do not cover.

    Raises RuntimeError where eventlet has put its own threads in the place of
    Python's: gRPC waits for real ones, and would hang.
    """

    def __init__(
        self,
        socket: str = DEFAULT_SOCKET,
        *,
        timeout: float = 60.0,
        once: bool = False,
    ) -> None:
        _check_threads()
        path = socket.removeprefix("unix:").removeprefix("//")
        if not path.startswith("/"):
            raise ValueError(
                f"socket {socket!r} is not the absolute path of a unix "
                f"socket; use for example {DEFAULT_SOCKET}"
            )
        self._timeout = timeout
        self._once = once
        # gRPC's own pauses grow to two minutes, too long for a restart.
        self._channel = grpc.insecure_channel(
            "unix:" + path,
            options=[
                ("grpc.max_receive_message_length", _MAX_RECEIVED),
                ("grpc.initial_reconnect_backoff_ms", int(_MIN_PAUSE * 1000)),
                ("grpc.min_reconnect_backoff_ms", int(_MIN_PAUSE * 1000)),
                ("grpc.max_reconnect_backoff_ms", int(_MAX_PAUSE * 1000)),
            ],
        )
        self.attachments = node_pb2_grpc.AttachmentsStub(self._channel)
        self.networks = node_pb2_grpc.NetworksStub(self._channel)
        self.exports = node_pb2_grpc.ExportsStub(self._channel)
        self.gateways = gateways_pb2_grpc.GatewaysStub(self._channel)
        self.node = node_pb2_grpc.NodeStub(self._channel)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the connection, and the calls that are under way."""
        self._channel.close()

    def call(
        self,
        method: Callable[..., Any],
        request: Any,
        timeout: float | None = None,
    ) -> Any:
        """Make any call of the stubs, with this client's ways.

        Raises CausewayError.
        """
        end = self._end(timeout)
        attempt = 0
        while True:
            try:
                return method(request, timeout=max(0, end - time.monotonic()))
            except grpc.RpcError as e:
                failure = errors.from_rpc(e)
            away = isinstance(failure, errors.Unavailable)
            if self._once or not away or not _rest(attempt, end):
                raise failure from None
            attempt += 1

    def _end(self, timeout: float | None) -> float:
        return time.monotonic() + (
            self._timeout if timeout is None else timeout
        )

    def attach(
        self,
        attachment: Attachment,
        timeout: float | None = None,
        *,
        force: bool = False,
    ) -> Attachment:
        """Attach a share, and wait until the instance has the device.

        force lets in writers that do not meet each other's locks.
        """
        request = node_pb2.AttachRequest(
            attachment=attachment.to_proto(), force=force
        )
        response = self.call(self.attachments.Attach, request, timeout)
        return Attachment.from_proto(response.attachment)

    def detach(
        self, id: str, timeout: float | None = None, *, force: bool = False
    ) -> None:
        """Detach, and wait until nothing is left on the host.

        An unknown id is success. force does not wait for the guest to let go:
        what its programs had not written is lost.
        """
        request = node_pb2.DetachRequest(id=id, force=force)
        self.call(self.attachments.Detach, request, timeout)

    def get_attachment(
        self, id: str, timeout: float | None = None
    ) -> Attachment:
        """Return an attachment as it is now. Raises UnknownId."""
        request = node_pb2.GetAttachmentRequest(id=id)
        response = self.call(self.attachments.Get, request, timeout)
        return Attachment.from_proto(response.attachment)

    def list_attachments(
        self, instance: str = "", timeout: float | None = None
    ) -> list[Attachment]:
        """Return those of an instance, by name or UUID, or of all."""
        request = node_pb2.ListAttachmentsRequest(instance=instance)
        response = self.call(self.attachments.List, request, timeout)
        return [Attachment.from_proto(a) for a in response.attachments]

    def repair(self, id: str, timeout: float | None = None) -> Attachment:
        """Look at an attachment now, without waiting for the next try."""
        request = node_pb2.RepairAttachmentRequest(id=id)
        response = self.call(self.attachments.Repair, request, timeout)
        return Attachment.from_proto(response.attachment)

    def preflight(
        self, attachment: Attachment, timeout: float | None = None
    ) -> list[Check]:
        """Check whether an instance could have a share; change nothing."""
        request = node_pb2.PreflightAttachmentRequest(
            attachment=attachment.to_proto()
        )
        response = self.call(self.attachments.Preflight, request, timeout)
        return [Check.from_proto(c) for c in response.checks]

    def prepare(
        self,
        attachment: Attachment,
        expires_at: datetime.datetime,
        timeout: float | None = None,
        *,
        force: bool = False,
    ) -> Attachment:
        """At the destination: make all that an instance to come needs."""
        request = node_pb2.PrepareAttachmentRequest(
            attachment=attachment.to_proto(), force=force
        )
        request.expires_at.FromDatetime(expires_at)
        response = self.call(self.attachments.Prepare, request, timeout)
        return Attachment.from_proto(response.attachment)

    def finish(self, id: str, timeout: float | None = None) -> Attachment:
        """At the destination: wait until the instance has the share."""
        request = node_pb2.FinishAttachmentRequest(id=id)
        response = self.call(self.attachments.Finish, request, timeout)
        return Attachment.from_proto(response.attachment)

    def release(
        self,
        id: str,
        expires_at: datetime.datetime,
        timeout: float | None = None,
    ) -> Attachment:
        """At the source: take the share from an instance about to leave."""
        request = node_pb2.ReleaseAttachmentRequest(id=id)
        request.expires_at.FromDatetime(expires_at)
        response = self.call(self.attachments.Release, request, timeout)
        return Attachment.from_proto(response.attachment)

    def rollback(self, id: str, timeout: float | None = None) -> Attachment:
        """At the source: give the share back to an instance that stayed."""
        request = node_pb2.RollbackAttachmentRequest(id=id)
        response = self.call(self.attachments.Rollback, request, timeout)
        return Attachment.from_proto(response.attachment)

    def get_node(self, timeout: float | None = None) -> Node:
        """Return the host and its agent as they are now."""
        request = node_pb2.GetNodeRequest()
        return Node.from_proto(self.call(self.node.Get, request, timeout))

    def wait_in_sync(self, timeout: float | None = None) -> Node:
        """Return when the agent takes changes. Raises TimedOut."""
        end = self._end(timeout)
        attempt = 0
        while True:
            node = self.get_node(max(0, end - time.monotonic()))
            if node.in_sync:
                return node
            if not _rest(attempt, end):
                raise errors.TimedOut(
                    "the agent is not in sync yet",
                    reason="not_in_sync",
                    code=grpc.StatusCode.DEADLINE_EXCEEDED,
                )
            attempt += 1

    def wait_attachment(
        self,
        id: str,
        done: Callable[[Attachment], bool] = lambda a: a.ready,
        timeout: float | None = None,
    ) -> Attachment:
        """Return an attachment when done says so of it: by default, ready.

        Raises UnknownId where there is none, and TimedOut, with the reason for
        which it was last not ready.
        """
        last: Attachment | None = None
        wait = self._timeout if timeout is None else timeout
        try:
            for event in self.watch(timeout=wait):
                if event.type is EventType.SYNCED and last is None:
                    break
                if event.kind != "attachment" or event.id != id:
                    continue
                if event.type is EventType.DELETED:
                    break
                last = event.attachment
                if last is not None and done(last):
                    return last
        except errors.CausewayError as failure:
            if last is None or not failure.retryable or self._once:
                raise
            raise errors.TimedOut(
                f"attachment {id} is {last.status.phase.name.lower()}: "
                f"{last.status.message}",
                reason=last.status.reason,
                code=grpc.StatusCode.DEADLINE_EXCEEDED,
            ) from None
        raise errors.error(
            grpc.StatusCode.NOT_FOUND,
            f"no attachment has the id {id}",
            "unknown_id",
        )

    def watch(self, timeout: float | None = None) -> Iterator[Event]:
        """Yield every object as it is, then SYNCED, then each change.

        It lasts for ever, or for timeout seconds, and then raises TimedOut. It
        begins anew where the agent cut it off for reading too slowly, and
        where the agent went away. All objects are yielded again then, and
        SYNCED; those that went meanwhile are yielded as DELETED before it, in
        the state in which they were last seen.
        """
        end = None if timeout is None else time.monotonic() + timeout
        known: dict[tuple[str, str], Event] = {}
        attempt = 0
        while True:
            try:
                for event in self._watch_once(known, end):
                    if event.type is EventType.SYNCED:
                        attempt = 0
                    yield event
                failure: errors.CausewayError = errors.Unavailable(
                    "the stream ended", code=grpc.StatusCode.UNAVAILABLE
                )
            except grpc.RpcError as e:
                failure = errors.from_rpc(e)
            away = isinstance(failure, errors.Unavailable) and not self._once
            resumes = away or failure.reason == "watch_overrun"
            if not resumes or not _rest(attempt, end):
                raise failure from None
            attempt += 1

    def _watch_once(
        self, known: dict[tuple[str, str], Event], end: float | None
    ) -> Iterator[Event]:
        """Read one stream to its end; known is what the caller was told."""
        left = None if end is None else max(0, end - time.monotonic())
        stream = self.node.Watch(node_pb2.WatchRequest(), timeout=left)
        seen = set()
        try:
            for message in stream:
                event = Event.from_proto(message)
                key = (event.kind, event.id)
                if event.type is EventType.PUT:
                    known[key] = event
                    seen.add(key)
                elif event.type is EventType.DELETED:
                    known.pop(key, None)
                elif event.type is EventType.SYNCED:
                    for key in [k for k in known if k not in seen]:
                        yield dataclasses.replace(
                            known.pop(key), type=EventType.DELETED
                        )
                yield event
        finally:
            stream.cancel()


def _check_threads() -> None:
    patcher = sys.modules.get("eventlet.patcher")
    if patcher is not None and patcher.is_monkey_patched("thread"):
        raise RuntimeError(
            "eventlet has patched threading, with which gRPC hangs: run the "
            "service with native threads (Nova: set "
            "OS_NOVA_DISABLE_EVENTLET_PATCHING=true), or have the causeway "
            "command make the calls"
        )


def _rest(attempt: int, end: float | None) -> bool:
    """Pause before another attempt; False where time ends before."""
    pause = min(_MIN_PAUSE * 2 ** min(attempt, 10), _MAX_PAUSE)
    pause *= random.uniform(0.5, 1.0)
    if end is not None and end - time.monotonic() < pause:
        return False
    time.sleep(pause)
    return True
