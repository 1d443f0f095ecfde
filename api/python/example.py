#!/usr/bin/python3
"""Attach a share to a running instance, and detach it.

Prints each state that the attachment is in, on a line of its own, waits for a
line on its input while the instance has the share, and detaches. It may be
killed at any time and run again.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
from collections.abc import Iterator

import causeway_node


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--id", help="of the attachment; INSTANCE-TAG if not")
    parser.add_argument("--instance", required=True, help="name or UUID")
    parser.add_argument("--source", required=True, metavar="KIND:SOURCE")
    parser.add_argument("--tag", required=True, help="what the guest mounts")
    parser.add_argument("--mount-at", default="", help="path in the guest")
    parser.add_argument(
        "--socket",
        default=os.getenv("CAUSEWAY_SOCKET", causeway_node.DEFAULT_SOCKET),
    )
    args = parser.parse_args()
    kind, _, source = args.source.partition(":")
    asked = causeway_node.Attachment(
        id=args.id or f"{args.instance}-{args.tag}",
        instance=args.instance,
        connection=causeway_node.Connection(kind, source),
        tag=args.tag,
        mount_at=args.mount_at,
    )
    try:
        with causeway_node.Client(args.socket) as agent:
            run(agent, asked)
    except causeway_node.CausewayError as e:
        print(f"{e.reason or e.code.name}: {e}", file=sys.stderr)
        return 5 if e.retryable else 1
    return 0


def run(agent: causeway_node.Client, asked: causeway_node.Attachment) -> None:
    """Attach, wait for the user, and detach."""
    node = agent.wait_in_sync()
    say(f"node {node.hostname}")
    events = agent.watch()
    for event in events:  # what was there before is not told
        if event.type is causeway_node.EventType.SYNCED:
            break
    told = threading.Thread(target=tell, args=(events, asked.id), daemon=True)
    told.start()
    got = agent.attach(asked)
    say(f"attached {got.guest.name.lower()}")
    sys.stdin.readline()
    agent.detach(asked.id)
    told.join()


def say(line: str) -> None:
    """Print a line at once, and whole: two threads print."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def tell(events: Iterator[causeway_node.Event], id: str) -> None:
    """Print each state until the attachment has gone."""
    last = ""
    try:
        for event in events:
            if event.attachment is None or event.id != id:
                continue
            if event.type is causeway_node.EventType.DELETED:
                say("gone")
                return
            if event.attachment.share_status.value != last:
                last = event.attachment.share_status.value
                say(last)
    except causeway_node.CausewayError:
        pass  # the client was closed, since a call failed


if __name__ == "__main__":
    sys.exit(main())
