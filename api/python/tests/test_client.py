"""Tests of the client against a fake agent at a real socket."""

import concurrent.futures
import datetime
import pathlib
import re
import tempfile
import threading
import time
import unittest

import grpc

import causeway_node
from causeway_node import errors, rpc_status_pb2
from causeway_node.v1 import node_pb2, node_pb2_grpc

ROOT = pathlib.Path(__file__).resolve().parents[3]
READY, WORKING = node_pb2.PHASE_READY, node_pb2.PHASE_WORKING
PUT, DELETED, SYNCED = (
    node_pb2.WatchResponse.TYPE_PUT,
    node_pb2.WatchResponse.TYPE_DELETED,
    node_pb2.WatchResponse.TYPE_SYNCED,
)


class Failure:
    """An error as the agent gives it."""

    def __init__(self, code, reason="", message="", metadata=None):
        self.code, self.message, self.details = code, message, b""
        if reason:
            status = rpc_status_pb2.RpcStatus(code=code.value[0])
            detail = status.details.add()
            detail.type_url = "type.googleapis.com/google.rpc.ErrorInfo"
            detail.value = rpc_status_pb2.ErrorInfo(
                reason=reason, domain="node.causeway", metadata=metadata
            ).SerializeToString()
            self.details = status.SerializeToString()

    def abort(self, context):
        if self.details:
            context.set_trailing_metadata(
                (("grpc-status-details-bin", self.details),)
            )
        context.abort(self.code, self.message)


AWAY = Failure(grpc.StatusCode.UNAVAILABLE, "not_in_sync", "wait")
DENIED = Failure(
    grpc.StatusCode.PERMISSION_DENIED, "caller_not_allowed", "no"
)
OVERRUN = Failure(grpc.StatusCode.ABORTED, "watch_overrun", "slow")


class FakeAgent:
    """Answers each call with the next of its answers, then with the last."""

    def __init__(self, answers=(None,), synced=(True,), watches=()):
        self.answers, self.synced = list(answers), list(synced)
        self.watches = list(watches)
        self.calls, self.asked = 0, None
        self.over = threading.Event()

    def next(self, answers):
        self.calls += 1
        return answers.pop(0) if len(answers) > 1 else answers[0]

    def Attach(self, request, context):
        self.asked = request
        if failure := self.next(self.answers):
            failure.abort(context)
        a = node_pb2.Attachment()
        a.CopyFrom(request.attachment)
        a.connection.ClearField("secret")
        a.instance_uuid = "u-1"
        a.guest = node_pb2.GUEST_STATE_MOUNTED
        a.status.phase, a.status.generation = READY, 1
        a.status.observed_generation = 1
        a.status.since.FromSeconds(1)
        a.usage.open_files, a.usage.open_files_limit = 5, 1024
        return node_pb2.AttachResponse(attachment=a)

    def Detach(self, request, context):
        self.asked = request
        if failure := self.next(self.answers):
            failure.abort(context)
        return node_pb2.DetachResponse()

    def List(self, request, context):
        self.asked = request
        return node_pb2.ListAttachmentsResponse(
            attachments=[node_pb2.Attachment(id="a"), node_pb2.Attachment()]
        )

    def Repair(self, request, context):
        return node_pb2.RepairAttachmentResponse(
            attachment=node_pb2.Attachment(id=request.id)
        )


class Attachments(node_pb2_grpc.AttachmentsServicer):
    def __init__(self, agent):
        self.Attach, self.Detach = agent.Attach, agent.Detach
        self.List, self.Repair = agent.List, agent.Repair
        self.agent = agent

    def Preflight(self, request, context):
        return node_pb2.PreflightAttachmentResponse(
            checks=[
                node_pb2.Check(
                    name="instance",
                    verdict=node_pb2.VERDICT_FAIL,
                    fix="virsh start vm1",
                )
            ]
        )

    def Prepare(self, request, context):
        self.agent.asked = request
        return node_pb2.PrepareAttachmentResponse(
            attachment=request.attachment
        )

    def Finish(self, request, context):
        return node_pb2.FinishAttachmentResponse(
            attachment=node_pb2.Attachment(id=request.id)
        )

    def Release(self, request, context):
        self.agent.asked = request
        return node_pb2.ReleaseAttachmentResponse(
            attachment=node_pb2.Attachment(id=request.id)
        )

    def Rollback(self, request, context):
        return node_pb2.RollbackAttachmentResponse(
            attachment=node_pb2.Attachment(id=request.id)
        )

    def Get(self, request, context):
        return node_pb2.GetAttachmentResponse(
            attachment=node_pb2.Attachment(id=request.id, guest=99)
        )


class Node(node_pb2_grpc.NodeServicer):
    def __init__(self, agent):
        self.agent = agent

    def Get(self, request, context):
        return node_pb2.GetNodeResponse(
            hostname="hv1",
            in_sync=self.agent.next(self.agent.synced),
            drivers=[node_pb2.Driver(kind="local", abilities=["probe"])],
        )

    def Watch(self, request, context):
        events, failure = self.agent.next(self.agent.watches)
        yield from events
        if failure:
            failure.abort(context)
        while context.is_active() and not self.agent.over.wait(0.01):
            pass


def event(kind, id="", phase=READY):
    message = node_pb2.WatchResponse(type=kind)
    if id:
        message.attachment.id = id
        message.attachment.status.phase = phase
        message.attachment.status.reason = "r"
    return message


class ClientTest(unittest.TestCase):
    def setUp(self):
        work = tempfile.TemporaryDirectory(prefix="cw-py-")
        self.addCleanup(work.cleanup)
        self.socket = work.name + "/s"

    def client(self, **options):
        options.setdefault("timeout", 30)
        client = causeway_node.Client("unix://" + self.socket, **options)
        self.addCleanup(client.close)
        return client

    def serve(self, agent):
        pool = concurrent.futures.ThreadPoolExecutor(4)
        server = grpc.server(pool)
        node_pb2_grpc.add_AttachmentsServicer_to_server(
            Attachments(agent), server
        )
        node_pb2_grpc.add_NodeServicer_to_server(Node(agent), server)
        self.assertNotEqual(server.add_insecure_port("unix:" + self.socket), 0)
        server.start()

        def stop():
            agent.over.set()
            server.stop(None).wait()
            pool.shutdown()

        self.addCleanup(stop)
        return agent

    def test_sockets(self):
        for socket in ("unix:///a/b", "unix:/a/b", "/a/b"):
            causeway_node.Client(socket).close()
        for socket in ("a/b", "unix:a", "tcp://a:1", "unix://"):
            with self.assertRaises(ValueError):
                causeway_node.Client(socket)

    def test_attach(self):
        agent = self.serve(FakeAgent())
        asked = causeway_node.Attachment(
            id="a",
            instance="vm1",
            connection=causeway_node.Connection(
                "local", "docs", {"k": "v"}, b"hush"
            ),
            tag="t",
            read_only=True,
            mount_at="/mnt",
            settings=causeway_node.Settings(
                cache=causeway_node.Cache.NEVER,
                xattr=False,
                locks=causeway_node.Locks.SHARED,
                queue_size=256,
                threads=2,
                memory=1 << 30,
                open_files=4096,
            ),
            ids=causeway_node.IdMap(
                (causeway_node.IdRange(0, 100000, 65536),),
                (causeway_node.IdRange(0, 100000, 65536),),
            ),
        )
        got = self.client().attach(asked, force=True)
        self.assertTrue(agent.asked.force)
        self.assertEqual((got.settings, got.ids), (asked.settings, asked.ids))
        self.assertEqual(got.settings.posix_acl, None)
        self.assertEqual(agent.asked.attachment, asked.to_proto())
        self.assertEqual(agent.asked.attachment.connection.secret, b"hush")
        self.assertEqual(got.to_proto().connection.secret, b"")
        self.assertEqual(got.instance_uuid, "u-1")
        self.assertEqual(got.usage, causeway_node.Usage(5, 1024, 0, 0))
        self.assertEqual(got.guest, causeway_node.GuestState.MOUNTED)
        self.assertEqual(got.share_status, causeway_node.ShareStatus.ACTIVE)
        self.assertEqual(got.connection.options, {"k": "v"})
        self.assertTrue(got.ready)
        self.assertEqual(got.status.since.timestamp(), 1)
        self.assertNotIn("hush", repr(asked))

    def test_other_calls(self):
        agent = self.serve(FakeAgent())
        with self.client() as client:
            client.detach("a")
            client.detach("a", force=True)
            self.assertTrue(agent.asked.force)
            got = client.get_attachment("a")
            self.assertEqual(
                (got.id, got.guest),
                ("a", causeway_node.GuestState.UNSPECIFIED),
            )
            ids = [a.id for a in client.list_attachments("vm1")]
            self.assertEqual((agent.asked.instance, ids), ("vm1", ["a", ""]))
            self.assertEqual(client.repair("b").id, "b")
            asked = causeway_node.Attachment(
                "c",
                "vm1",
                causeway_node.Connection("local", "docs"),
                "t",
                ids=causeway_node.Squash(1000, 1001),
            )
            (check,) = client.preflight(asked)
            self.assertEqual(
                (check.verdict, check.fix),
                (causeway_node.Verdict.FAIL, "virsh start vm1"),
            )
            end = datetime.datetime(2026, 1, 2, tzinfo=datetime.timezone.utc)
            got = client.prepare(asked, end)
            self.assertEqual((got.ids, got.tag), (asked.ids, "t"))
            self.assertEqual(
                agent.asked.expires_at.seconds, int(end.timestamp())
            )
            self.assertEqual(client.finish("d").id, "d")
            self.assertEqual(client.release("e", end).id, "e")
            self.assertEqual(agent.asked.expires_at.seconds, 1767312000)
            self.assertEqual(client.rollback("f").id, "f")
            node = client.get_node()
            self.assertEqual(
                (node.hostname, node.drivers[0].abilities), ("hv1", ("probe",))
            )

    def test_errors(self):
        code = grpc.StatusCode
        for failure, kind, retryable in (
            (
                Failure(
                    code.FAILED_PRECONDITION,
                    "no_free_port",
                    "no port is free",
                    {"free": "0"},
                ),
                errors.NoFreePort,
                False,
            ),
            (Failure(code.UNIMPLEMENTED), errors.CausewayError, False),
            (Failure(code.INVALID_ARGUMENT, "bad_tag"),
             errors.InvalidRequest, False),
            (Failure(code.FAILED_PRECONDITION, "of_tomorrow"),
             errors.Precondition, False),
            (Failure(code.ABORTED, "being_removed"), errors.Busy, True),
            (Failure(code.ABORTED, "changed_meanwhile"), errors.Busy, False),
            (Failure(code.ABORTED, "no_free_port"), errors.Busy, True),
            (AWAY, errors.NotInSync, True),
            (Failure(code.DEADLINE_EXCEEDED, "deadline"),
             errors.TimedOut, True),
        ):
            with self.subTest(kind=kind, code=failure.code):
                self.setUp()
                self.serve(FakeAgent([failure]))
                with self.assertRaises(causeway_node.CausewayError) as raised:
                    self.client(once=True).detach("a")
                got = raised.exception
                self.assertIs(type(got), kind)
                self.assertEqual(got.code, failure.code)
                self.assertEqual(str(got), failure.message)
                self.assertEqual(got.retryable, retryable)
        self.setUp()
        self.serve(
            FakeAgent([Failure(code.NOT_FOUND, "unknown_id", "", {"a": "b"})])
        )
        with self.assertRaises(causeway_node.UnknownId) as raised:
            self.client().detach("a")
        self.assertEqual(raised.exception.reason, "unknown_id")
        self.assertEqual(raised.exception.metadata, {"a": "b"})

    def test_tries_again_while_away(self):
        agent = self.serve(FakeAgent([AWAY, AWAY, None]))
        self.client().detach("a")
        self.assertEqual(agent.calls, 3)
        agent.answers, agent.calls = [AWAY, DENIED, None], 0
        with self.assertRaises(causeway_node.Denied):
            self.client().detach("a")
        self.assertEqual(agent.calls, 2)
        agent.answers, agent.calls = [AWAY, None], 0
        with self.assertRaises(causeway_node.NotInSync):
            self.client(once=True).detach("a")
        self.assertEqual(agent.calls, 1)
        agent.answers, agent.calls = [AWAY], 0
        with self.assertRaises(causeway_node.CausewayError) as raised:
            self.client().detach("a", timeout=2)
        self.assertTrue(raised.exception.retryable)
        self.assertGreater(agent.calls, 1)

    def test_agent_comes_during_a_call(self):
        with self.assertRaises(causeway_node.Unavailable) as raised:
            self.client(once=True).detach("a")
        self.assertEqual(raised.exception.reason, "")
        client = self.client()
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            call = pool.submit(client.detach, "a")
            time.sleep(0.2)
            self.serve(FakeAgent())
            call.result(timeout=30)

    def test_watch_goes_on(self):
        first = [event(PUT, "a"), event(PUT, "gone"), event(SYNCED)]
        second = [event(PUT, "a"), event(PUT, "b"), event(SYNCED)]
        third = [event(PUT, "b"), event(SYNCED), event(PUT, "end")]
        agent = self.serve(
            FakeAgent(
                watches=[(first, OVERRUN), (second, AWAY), (third, None)]
            )
        )
        got = []
        for e in self.client().watch(timeout=30):
            got.append(f"{e.type.name} {e.id}")
            if e.id == "end":
                break
        to_second = [
            "PUT a", "PUT gone", "SYNCED ",
            "PUT a", "PUT b", "DELETED gone", "SYNCED ",
        ]
        self.assertEqual(
            got, to_second + ["PUT b", "DELETED a", "SYNCED ", "PUT end"]
        )

        agent.watches, got = [(first, OVERRUN), (second, AWAY)], []
        with self.assertRaises(causeway_node.NotInSync):
            for e in self.client(once=True).watch():
                got.append(f"{e.type.name} {e.id}")
        self.assertEqual(got, to_second)

    def test_wait_attachment(self):
        agent = self.serve(FakeAgent())
        agent.watches = [
            ([event(PUT, "a", WORKING), event(SYNCED), event(PUT, "a")], None)
        ]
        self.assertTrue(self.client().wait_attachment("a").ready)
        agent.watches = [([event(PUT, "b"), event(SYNCED)], None)]
        with self.assertRaises(causeway_node.UnknownId):
            self.client().wait_attachment("a")
        agent.watches = [
            ([event(PUT, "a", WORKING), event(DELETED, "a")], None)
        ]
        with self.assertRaises(causeway_node.UnknownId):
            self.client().wait_attachment("a")
        agent.watches = [([event(PUT, "a", WORKING), event(SYNCED)], None)]
        with self.assertRaises(causeway_node.TimedOut) as raised:
            self.client().wait_attachment("a", timeout=2)
        self.assertEqual(raised.exception.reason, "r")

    def test_wait_in_sync(self):
        agent = self.serve(FakeAgent(synced=[False, False, True]))
        self.assertTrue(self.client().wait_in_sync().in_sync)
        self.assertEqual(agent.calls, 3)
        agent.synced = [False]
        with self.assertRaises(causeway_node.TimedOut):
            self.client().wait_in_sync(timeout=1)


class ShareStatusTest(unittest.TestCase):
    def test_as_documented(self):
        """docs/nova.md has the table, row for row."""
        page = (ROOT / "docs/nova.md").read_text()
        rows = re.findall(
            r"^\| `PHASE_(\w+)` \|([^|]*)\| `(\w+)` \|", page, re.MULTILINE
        )
        self.assertGreater(len(rows), len(causeway_node.Phase))
        for phase, reasons, want in rows:
            for reason in re.findall(r"`(\w+)`", reasons) or ["of_tomorrow"]:
                with self.subTest(phase=phase, reason=reason):
                    message = node_pb2.Attachment()
                    message.status.phase = node_pb2.Phase.Value(
                        "PHASE_" + phase
                    )
                    message.status.reason = reason
                    got = causeway_node.Attachment.from_proto(message)
                    self.assertEqual(got.share_status.value, want)


class ReasonsTest(unittest.TestCase):
    def test_the_agent_has_them(self):
        """Each exception's reason is one of the agent's."""
        known = re.findall(
            r'Reason = "(\w+)"', (ROOT / "agent/fault/reasons.go").read_text()
        )
        self.assertLess(set(errors.BY_REASON), set(known))


if __name__ == "__main__":
    unittest.main()
