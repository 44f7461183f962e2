"""What differential.py asks: (subject, body, headers), in order, each on the state that those before made."""

A, C, S = "$JS.API", "$JS.API.CONSUMER", "$JS.API.STREAM"


def steps(stream, consumer):
    yield from streams(stream)
    yield from refused_streams(stream)
    yield from messages(stream)
    yield from consumers(stream, consumer)
    yield from refused_consumers(stream, consumer)
    yield from pulls(stream, consumer)
    yield from updates(stream, consumer)
    yield from features(stream, consumer)
    yield from deliveries(stream, consumer)
    yield from acknowledged_by_flow(stream)
    yield f"{A}.INFO", None


def streams(stream):
    yield f"{A}.INFO", None
    yield f"{S}.NAMES", None
    yield f"{S}.LIST", None
    yield f"{S}.INFO.nope", None
    yield f"{S}.CREATE.S", stream()
    yield f"{S}.CREATE.S", stream()
    yield f"{S}.CREATE.S", stream(max_msgs=7)
    yield f"{S}.INFO.S", None
    yield f"{S}.INFO.S", {"subjects_filter": ">"}
    yield f"{S}.INFO.S", {"deleted_details": True}
    yield f"{S}.INFO.S", "not json"
    yield f"{S}.NAMES", {"subject": "S.x"}
    yield f"{S}.NAMES", {"subject": "nothing.here"}
    yield f"{S}.NAMES", {"offset": 5}
    yield f"{S}.NAMES", "not json"
    yield f"{S}.LIST", {"offset": 0, "subject": "S.*"}
    yield f"{S}.CREATE.M", stream("M", storage="memory", compression="s2", metadata={"a": "b"}, description="words")
    yield f"{S}.CREATE.W", stream("W", retention="workqueue")
    yield f"{S}.CREATE.I", stream("I", retention="interest", max_age=60_000_000_000, duplicate_window=1_000_000_000)
    yield f"{S}.CREATE.D", stream("D", discard="new", discard_new_per_subject=True, max_msgs_per_subject=1, max_msgs=3)
    yield f"{S}.CREATE.R", stream("R", allow_rollup_hdrs=True, allow_direct=True, deny_purge=False, max_msgs_per_subject=3)
    yield f"{S}.CREATE.F", stream("F", first_seq=100)
    yield f"{S}.CREATE.T", stream("T", allow_msg_ttl=True, subject_delete_marker_ttl=2_000_000_000)
    yield f"{S}.CREATE.X", stream("X", deny_delete=True, deny_purge=True)
    yield f"{S}.CREATE.C", stream("C", allow_msg_counter=True)
    yield f"{S}.CREATE.A", stream("A", allow_atomic=True)
    yield f"{S}.CREATE.MIR", {"name": "MIR", "mirror": {"name": "S"}, "storage": "file"}
    yield f"{S}.CREATE.SRC", {"name": "SRC", "sources": [{"name": "S", "filter_subject": "S.a"}], "storage": "file"}
    yield f"{S}.NAMES", None


def refused_streams(stream):
    yield f"{S}.CREATE.bad", stream("other")
    yield f"{S}.CREATE.b", stream("b", subjects=["S.x"])
    yield f"{S}.CREATE.b", stream("b", subjects=[">"])
    yield f"{S}.CREATE.b", stream("b", subjects=["$JS.API.>"])
    yield f"{S}.CREATE.b", stream("b", subjects=["b..c"])
    yield f"{S}.CREATE.b", stream("b", subjects=["b.x", "b.x"])
    yield f"{S}.CREATE.b", stream("b", subjects=["b.>", "b.x"])
    yield f"{S}.CREATE.b", stream("b", num_replicas=3)
    yield f"{S}.CREATE.b", stream("b", num_replicas=-1)
    yield f"{S}.CREATE.b", stream("b", num_replicas=6)
    yield f"{S}.CREATE.b", stream("b", retention="nonsense")
    yield f"{S}.CREATE.b", stream("b", max_age=1000)
    yield f"{S}.CREATE.b", stream("b", max_age=60_000_000_000, duplicate_window=120_000_000_000)
    yield f"{S}.CREATE.b", stream("b", duplicate_window=-1)
    yield f"{S}.CREATE.b", stream("b", max_age=-1)
    yield f"{S}.CREATE.b", stream("b", discard_new_per_subject=True)
    yield f"{S}.CREATE.b", stream("b", discard="new", discard_new_per_subject=True)
    yield f"{S}.CREATE.b", stream("b", allow_rollup_hdrs=True, deny_purge=True)
    yield f"{S}.CREATE.b", stream("b", mirror={"name": "S"})
    yield f"{S}.CREATE.b", {"name": "b", "mirror": {"name": "S"}, "sources": [{"name": "S"}]}
    yield f"{S}.CREATE.b", {"name": "b", "mirror": {"name": "S", "filter_subject": "a..b"}}
    yield f"{S}.CREATE.b", {"name": "b", "mirror": {"name": "nope"}}
    yield f"{S}.CREATE.b", {"name": "b", "sources": [{"name": "S"}, {"name": "S"}]}
    yield f"{S}.CREATE.b", stream("b", republish={"src": ">", "dest": "b.>"})
    yield f"{S}.CREATE.b", stream("b", republish={"src": "b..x", "dest": "q.>"})
    yield f"{S}.CREATE.b", stream("b", subject_transform={"src": "b.*", "dest": "c.{{wildcard(2)}}"})
    yield f"{S}.CREATE.b", stream("b", description="x" * 5000)
    yield f"{S}.CREATE.b", stream("b", sealed=True)
    yield f"{S}.CREATE.b", stream("b", subject_delete_marker_ttl=2_000_000_000)
    yield f"{S}.CREATE.b", stream("b", allow_msg_counter=True, discard="new")
    yield f"{S}.CREATE.b", stream("b", placement={"cluster": "elsewhere"})
    yield f"{S}.CREATE.b", "[]"
    yield f"{S}.CREATE.b", ""
    yield f"{S}.UPDATE.nope", stream("nope")
    yield f"{S}.DELETE.nope", None
    yield f"{S}.PURGE.nope", None
    yield f"{S}.PURGE.X", None
    yield f"{S}.MSG.GET.nope", {"seq": 1}
    yield f"{S}.MSG.DELETE.nope", {"seq": 1}
    yield f"{A}.NOPE", None
    yield f"{S}.NOPE.S", None


def messages(stream):
    for n in range(1, 6):
        yield f"S.{'ab'[n % 2]}", f"m{n}"
    yield "S.a", "dup", {"Nats-Msg-Id": "1"}
    yield "S.a", "dup", {"Nats-Msg-Id": "1"}
    yield "S.a", "x", {"Nats-Expected-Stream": "other"}
    yield "S.a", "x", {"Nats-Expected-Last-Sequence": "99"}
    yield "S.a", "x", {"Nats-Expected-Last-Sequence": "x"}
    yield "S.a", "x", {"Nats-Expected-Last-Subject-Sequence": "99"}
    yield "S.a", "x", {"Nats-Expected-Last-Msg-Id": "99"}
    yield "S.a", "x", {"Nats-Rollup": "sub"}
    yield "S.a", "x", {"Nats-TTL": "5s"}
    yield "S.a", "x", {"Nats-Incr": "5"}
    yield "S.a", "x", {"Nats-Batch-Id": "b", "Nats-Batch-Sequence": "1"}
    yield "D.a", "1"
    yield "D.a", "2"
    yield "D.b", "1"
    yield "D.c", "1"
    yield "D.d", "1"
    yield "R.a", "1"
    yield "R.a", "2", {"Nats-Rollup": "sub"}
    yield "R.a", "2", {"Nats-Rollup": "all"}
    yield "R.a", "2", {"Nats-Rollup": "nonsense"}
    yield "R.a", "2", {"Nats-Expected-Last-Subject-Sequence": "3", "Nats-Expected-Last-Subject-Sequence-Subject": "R.a"}
    yield "F.a", "1"
    yield "T.a", "1", {"Nats-TTL": "1h"}
    yield "T.a", "1", {"Nats-TTL": "never"}
    yield "T.a", "1", {"Nats-TTL": "nonsense"}
    yield "T.a", "1", {"Nats-TTL": "0"}
    yield "C.a", "", {"Nats-Incr": "5"}
    yield "C.a", "", {"Nats-Incr": "-2"}
    yield "C.a", "", {"Nats-Incr": "x"}
    yield "C.a", "", None
    yield "A.a", "1", {"Nats-Batch-Id": "b", "Nats-Batch-Sequence": "1"}
    yield "A.a", "2", {"Nats-Batch-Id": "b", "Nats-Batch-Sequence": "2", "Nats-Batch-Commit": "1"}
    yield "A.a", "2", {"Nats-Batch-Id": "c", "Nats-Batch-Sequence": "2"}
    yield "A.a", "2", {"Nats-Batch-Id": "x" * 65, "Nats-Batch-Sequence": "1"}
    yield f"{S}.INFO.S", {"subjects_filter": "S.*"}
    for seq in (1, 6, 99, 0):
        yield f"{S}.MSG.GET.S", {"seq": seq}
    yield f"{S}.MSG.GET.S", {"last_by_subj": "S.a"}
    yield f"{S}.MSG.GET.S", {"last_by_subj": "S.nope"}
    yield f"{S}.MSG.GET.S", {"next_by_subj": "S.b"}
    yield f"{S}.MSG.GET.S", {"seq": 3, "next_by_subj": "S.b"}
    yield f"{S}.MSG.GET.S", {"seq": 3, "last_by_subj": "S.b"}
    yield f"{S}.MSG.GET.S", {}
    yield f"{S}.MSG.GET.S", "x"
    yield "$JS.API.DIRECT.GET.S", {"seq": 1}
    yield "$JS.API.DIRECT.GET.R", {"seq": 3}
    yield "$JS.API.DIRECT.GET.R", {"seq": 1}
    yield "$JS.API.DIRECT.GET.R", {"last_by_subj": "R.a"}
    yield "$JS.API.DIRECT.GET.R.R.a", None
    yield "$JS.API.DIRECT.GET.R.R.nope", None
    yield "$JS.API.DIRECT.GET.R", {}
    yield "$JS.API.DIRECT.GET.R", "x"
    yield "$JS.API.DIRECT.GET.R", {"seq": 1, "last_by_subj": "R.a"}
    yield f"{S}.MSG.DELETE.S", {"seq": 2}
    yield f"{S}.MSG.DELETE.S", {"seq": 2}
    yield f"{S}.MSG.DELETE.S", {"seq": 3, "no_erase": True}
    yield f"{S}.MSG.DELETE.S", {"seq": 99}
    yield f"{S}.MSG.DELETE.S", "x"
    yield f"{S}.MSG.DELETE.X", {"seq": 1}
    yield f"{S}.INFO.S", {"deleted_details": True}
    yield f"{S}.INFO.S", {"subjects_filter": "S.a", "offset": 1}
    yield f"{S}.PURGE.S", {"filter": "S.b", "keep": 1}
    yield f"{S}.PURGE.S", {"seq": 2, "keep": 1}
    yield f"{S}.PURGE.S", {"seq": 4}
    yield f"{S}.PURGE.S", "x"
    yield f"{S}.INFO.S", None
    yield f"{S}.PURGE.S", None
    yield f"{S}.INFO.S", None
    yield "S.a", "after"
    yield "S.b", "after"


def consumers(stream, consumer):
    yield f"{C}.NAMES.S", None
    yield f"{C}.LIST.S", None
    yield f"{C}.INFO.S.nope", None
    yield f"{C}.CREATE.S.c", consumer()
    yield f"{C}.CREATE.S.c", consumer()
    yield f"{C}.CREATE.S.c", {**consumer(ack_wait=1_000_000_000), "action": "create"}
    yield f"{C}.CREATE.S.c", {**consumer(ack_wait=1_000_000_000), "action": "update"}
    yield f"{C}.CREATE.S.upd", {**consumer(name="upd"), "action": "update"}
    yield f"{C}.INFO.S.c", None
    yield f"{C}.DURABLE.CREATE.S.d", consumer(name="d")
    yield f"{C}.CREATE.S.f.S.a", consumer(name="f", filter_subject="S.a")
    yield f"{C}.CREATE.S.m", consumer(name="m", filter_subjects=["S.a", "S.b"])
    yield f"{C}.CREATE.S.p", consumer(name="p", deliver_subject="push.p", flow_control=True, idle_heartbeat=5_000_000_000)
    yield f"{C}.CREATE.S.q", consumer(name="q", deliver_subject="push.q", deliver_group="g")
    yield f"{C}.CREATE.S.n", consumer(name="n", ack_policy="none", deliver_policy="new", headers_only=True)
    yield f"{C}.CREATE.S.l", consumer(name="l", deliver_policy="last")
    yield f"{C}.CREATE.S.lps", consumer(name="lps", deliver_policy="last_per_subject", filter_subject="S.>")
    yield f"{C}.CREATE.S.s", consumer(name="s", deliver_policy="by_start_sequence", opt_start_seq=3)
    yield f"{C}.CREATE.S.t", consumer(name="t", deliver_policy="by_start_time", opt_start_time="2030-01-01T00:00:00Z")
    yield f"{C}.CREATE.S.b", consumer(name="b", backoff=[1_000_000_000, 2_000_000_000], max_deliver=3)
    yield f"{C}.CREATE.S.pg", consumer(name="pg", priority_groups=["g"], priority_policy="overflow")
    yield f"{C}.CREATE.S.pp", consumer(name="pp", priority_groups=["g"], priority_policy="pinned_client", priority_timeout=3_000_000_000)
    yield f"{C}.CREATE.S.e", {"stream_name": "S", "config": {"name": "e", "ack_policy": "none", "inactive_threshold": 60_000_000_000}}
    yield f"{C}.NAMES.S", None
    yield f"{C}.NAMES.S", {"offset": 3}
    yield f"{C}.LIST.S", {"offset": 12}
    yield f"{C}.PAUSE.S.c", {"pause_until": "2035-01-01T00:00:00Z"}
    yield f"{C}.INFO.S.c", None
    yield f"{C}.PAUSE.S.c", None
    yield f"{C}.PAUSE.S.nope", {"pause_until": "2035-01-01T00:00:00Z"}
    yield f"{C}.UNPIN.S.pp", {"group": "g"}
    yield f"{C}.UNPIN.S.pp", {"group": "nope"}
    yield f"{C}.UNPIN.S.c", {"group": "g"}
    yield f"{C}.DELETE.S.e", None
    yield f"{C}.DELETE.S.e", None


def refused_consumers(stream, consumer):
    for more in (
        {"ack_policy": "nonsense"}, {"deliver_policy": "nonsense"}, {"deliver_policy": "by_start_sequence"},
        {"deliver_policy": "by_start_time"}, {"opt_start_seq": 5}, {"max_deliver": 1, "backoff": [1, 2]},
        {"deliver_subject": "push.x", "max_waiting": 5}, {"deliver_subject": "S.a"}, {"deliver_subject": "a.>"},
        {"deliver_group": "g"}, {"flow_control": True}, {"idle_heartbeat": 5}, {"deliver_subject": "p", "idle_heartbeat": 5},
        {"deliver_subject": "p", "flow_control": True}, {"rate_limit_bps": 100}, {"filter_subject": "a..b"},
        {"filter_subject": "other.x"}, {"filter_subject": "S.a", "filter_subjects": ["S.b"]},
        {"filter_subjects": ["S.a", "S.a"]}, {"filter_subjects": ["S.>", "S.a"]}, {"filter_subjects": ["S.a", ""]},
        {"ack_wait": -1}, {"max_ack_pending": -5}, {"max_waiting": -1}, {"max_batch": -1}, {"max_expires": 1},
        {"sample_freq": "x"}, {"sample_freq": "200"}, {"replay_policy": "nonsense"}, {"num_replicas": 3},
        {"num_replicas": -1}, {"priority_groups": ["g"]}, {"priority_policy": "overflow"},
        {"priority_groups": [""], "priority_policy": "overflow"}, {"priority_groups": ["a", "b"], "priority_policy": "overflow"},
        {"priority_groups": ["x" * 17], "priority_policy": "overflow"}, {"priority_groups": ["g"], "priority_policy": "overflow", "deliver_subject": "p"},
        {"description": "x" * 5000}, {"inactive_threshold": -1}, {"metadata": {"_nats.x": "y"}},
        {"deliver_policy": "last_per_subject"}, {"ack_policy": "all", "max_ack_pending": 0},
    ):
        yield f"{C}.CREATE.S.z", consumer(name="z", **more)
        yield f"{C}.DELETE.S.z", None
    yield f"{C}.CREATE.S.z", consumer(name="y")
    yield f"{C}.CREATE.S.z", consumer(st="other", name="z")
    yield f"{C}.CREATE.nope.z", consumer(st="nope", name="z")
    yield f"{C}.CREATE.S.z.S.a", consumer(name="z", filter_subject="S.b")
    yield f"{C}.CREATE.S.a.b.c", consumer(name="a.b.c")
    yield f"{C}.DURABLE.CREATE.S.z", {"stream_name": "S", "config": {"ack_policy": "explicit"}}
    yield f"{C}.CREATE.S.z", "x"
    yield f"{C}.CREATE.S", {"stream_name": "S", "config": {"durable_name": "z"}}
    yield f"{C}.CREATE.W.a", consumer(st="W", name="a", filter_subject="W.a")
    yield f"{C}.CREATE.W.b", consumer(st="W", name="b", filter_subject="W.>")
    yield f"{C}.CREATE.W.b", consumer(st="W", name="b", filter_subject="W.b", ack_policy="none")
    yield f"{C}.CREATE.W.b", consumer(st="W", name="b", filter_subject="W.b", deliver_policy="new")


def pulls(stream, consumer):
    yield f"{C}.MSG.NEXT.S.c", {"batch": 1, "no_wait": True}
    yield f"{C}.MSG.NEXT.S.c", "1"
    yield f"{C}.MSG.NEXT.S.c", {"batch": 1, "no_wait": True}
    yield f"{C}.INFO.S.c", None
    yield f"{C}.MSG.NEXT.S.n", {"batch": 1, "no_wait": True}
    yield f"{C}.MSG.NEXT.S.c", {"batch": 1, "expires": 100_000_000}
    yield f"{C}.MSG.NEXT.S.c", {"batch": 1, "expires": 100_000_000, "idle_heartbeat": 90_000_000}
    yield f"{C}.MSG.NEXT.S.c", {"batch": -1}
    yield f"{C}.MSG.NEXT.S.c", "x"
    yield f"{C}.MSG.NEXT.S.p", {"batch": 1, "no_wait": True}
    yield f"{C}.MSG.NEXT.S.nope", {"batch": 1, "no_wait": True}
    yield f"{C}.MSG.NEXT.S.pg", {"batch": 1, "no_wait": True}
    yield f"{C}.MSG.NEXT.S.pg", {"batch": 1, "no_wait": True, "group": "nope"}
    yield f"{C}.MSG.NEXT.S.pg", {"batch": 1, "no_wait": True, "group": "g"}
    yield f"{C}.MSG.NEXT.S.c", {"batch": 1, "no_wait": True, "group": "g"}
    yield f"{C}.MSG.NEXT.S.c", {"batch": 1, "max_bytes": 1, "no_wait": True}
    yield f"{C}.INFO.S.pg", None


def updates(stream, consumer):
    yield f"{S}.UPDATE.S", stream(description="new")
    yield f"{S}.UPDATE.S", stream(retention="workqueue")
    yield f"{S}.UPDATE.S", stream(storage="memory")
    yield f"{S}.UPDATE.S", stream(max_consumers=3)
    yield f"{S}.UPDATE.S", stream(subjects=["S.>", "S2.>"])
    yield f"{S}.UPDATE.S", stream(subjects=["D.x"])
    yield f"{S}.UPDATE.S", stream(max_msgs=1)
    yield f"{S}.INFO.S", None
    yield f"{S}.UPDATE.X", stream("X", deny_delete=False, deny_purge=True)
    yield f"{S}.UPDATE.F", stream("F", first_seq=200)
    yield f"{S}.UPDATE.C", stream("C")
    yield f"{S}.UPDATE.T", stream("T")
    yield f"{S}.UPDATE.M", stream("M", storage="memory", sealed=True)
    yield "M.a", "sealed"
    yield f"{S}.UPDATE.M", stream("M", storage="memory")
    yield f"{S}.UPDATE.MIR", {"name": "MIR", "mirror": {"name": "D"}}
    yield f"{S}.UPDATE.MIR", {"name": "MIR", "subjects": ["MIR.>"]}
    for more in ({"ack_policy": "none"}, {"deliver_policy": "new"}, {"filter_subject": "S.a"}, {"max_deliver": 5},
                 {"deliver_subject": "push.c"}, {"replay_policy": "original"}, {"ack_wait": 2_000_000_000}, {"description": "d"}):
        yield f"{C}.CREATE.S.c", consumer(**more)
    yield f"{C}.CREATE.S.p", consumer(name="p", deliver_subject="push.other")
    yield f"{C}.INFO.S.c", None
    yield f"{S}.DELETE.X", None
    yield f"{S}.DELETE.X", None


def features(stream, consumer):
    kv = {"name": "KV_k", "subjects": ["$KV.k.>"], "max_msgs_per_subject": 5, "allow_rollup_hdrs": True, "deny_delete": True,
          "allow_direct": True, "discard": "new", "max_age": 0, "storage": "file", "num_replicas": 1, "retention": "limits"}
    yield f"{S}.CREATE.KV_k", kv
    yield "$KV.k.a", "1"
    yield "$KV.k.a", "2", {"Nats-Expected-Last-Subject-Sequence": "0"}
    yield "$KV.k.a", "2", {"Nats-Expected-Last-Subject-Sequence": "1"}
    yield "$KV.k.a", "", {"KV-Operation": "DEL"}
    yield "$KV.k.a", "", {"KV-Operation": "PURGE", "Nats-Rollup": "sub"}
    yield "$JS.API.DIRECT.GET.KV_k.$KV.k.a", None
    yield f"{S}.INFO.KV_k", {"subjects_filter": ">"}
    yield f"{S}.MSG.DELETE.KV_k", {"seq": 4}
    yield f"{A}.META.LEADER.STEPDOWN", None
    yield f"{S}.LEADER.STEPDOWN.S", None
    yield f"{C}.LEADER.STEPDOWN.S.c", None
    yield f"{S}.PEER.REMOVE.S", {"peer": "x"}
    yield f"{A}.ACCOUNT.PURGE.x", None
    yield f"{S}.SNAPSHOT.nope", {"deliver_subject": "x"}
    yield f"{S}.SNAPSHOT.S", {}
    yield f"{S}.RESTORE.S", {"config": {"name": "S"}, "state": {}}
    yield "$SYS.REQ.USER.INFO", None
    yield "nobody.here", "x"


def deliveries(stream, consumer):
    """What comes back in several messages: a subject that begins with * gathers all of them."""
    yield f"{S}.CREATE.Q", stream("Q", allow_direct=True, max_msgs_per_subject=10)
    for n in range(12):
        yield f"Q.{'abc'[n % 3]}", f"m{n}", {"N": str(n)}
    yield f"{C}.CREATE.Q.c", consumer(st="Q", ack_wait=30_000_000_000, max_deliver=3)
    yield f"*{C}.MSG.NEXT.Q.c", {"batch": 3}
    yield f"*{C}.MSG.NEXT.Q.c", {"batch": 2, "no_wait": True}
    yield f"*{C}.MSG.NEXT.Q.c", {"batch": 3, "max_bytes": 150, "expires": 200_000_000}
    yield f"*{C}.MSG.NEXT.Q.c", {"batch": 100, "no_wait": True}
    yield f"*{C}.MSG.NEXT.Q.c", {"batch": 5, "no_wait": True, "expires": 100_000_000}
    yield f"*{C}.MSG.NEXT.Q.c", {"batch": 5, "expires": 300_000_000, "idle_heartbeat": 100_000_000}
    yield f"*{C}.MSG.NEXT.Q.c", {"batch": 5, "expires": 100_000_000, "idle_heartbeat": 100_000_000}
    yield f"{C}.INFO.Q.c", None
    yield "*$JS.ACK.Q.c.1.1.1.1700000000000000000.11", "+ACK"
    yield "*$JS.ACK.Q.c.1.2.2.1700000000000000000.10", "+WPI"
    yield "*$JS.ACK.Q.c.1.3.3.1700000000000000000.9", "+TERM because"
    yield "*$JS.ACK.Q.c.1.4.4.1700000000000000000.8", "-NAK"
    yield f"*{C}.MSG.NEXT.Q.c", {"batch": 1, "no_wait": True}
    yield "*$JS.ACK.Q.c.1.5.5.1700000000000000000.7", "+NXT"
    yield "*$JS.ACK.Q.c.1.99.99.1700000000000000000.0", "+ACK"
    yield "*$JS.ACK.Q.nope.1.1.1.1700000000000000000.0", "+ACK"
    yield "*$JS.ACK.Q.c.1.6.6.1700000000000000000.6", "nonsense"
    yield f"{C}.INFO.Q.c", None
    yield f"{C}.CREATE.Q.h", consumer(st="Q", name="h", headers_only=True, ack_policy="none")
    yield f"*{C}.MSG.NEXT.Q.h", {"batch": 2, "no_wait": True}
    yield f"{C}.CREATE.Q.l", consumer(st="Q", name="l", deliver_policy="last_per_subject", filter_subjects=["Q.a", "Q.b"])
    yield f"*{C}.MSG.NEXT.Q.l", {"batch": 10, "no_wait": True}
    yield f"{C}.INFO.Q.l", None
    yield f"{C}.CREATE.Q.all", consumer(st="Q", name="all", ack_policy="all", filter_subject="Q.c")
    yield f"*{C}.MSG.NEXT.Q.all", {"batch": 3, "no_wait": True}
    yield "*$JS.ACK.Q.all.1.9.3.1700000000000000000.0", "+ACK"
    yield f"{C}.INFO.Q.all", None
    yield f"{C}.CREATE.Q.mp", consumer(st="Q", name="mp", max_ack_pending=2)
    yield f"*{C}.MSG.NEXT.Q.mp", {"batch": 5, "no_wait": True}
    yield f"{C}.INFO.Q.mp", None
    yield f"{C}.CREATE.Q.lim", consumer(st="Q", name="lim", max_batch=2, max_expires=1_000_000_000, max_bytes=1000, max_waiting=1)
    yield f"*{C}.MSG.NEXT.Q.lim", {"batch": 3, "no_wait": True}
    yield f"*{C}.MSG.NEXT.Q.lim", {"batch": 1, "expires": 2_000_000_000}
    yield f"*{C}.MSG.NEXT.Q.lim", {"batch": 1, "max_bytes": 5000, "no_wait": True}
    yield f"*{C}.MSG.NEXT.Q.lim", {"batch": 1, "idle_heartbeat": 5}
    yield f"{C}.CREATE.Q.pg", consumer(st="Q", name="pg", priority_groups=["g"], priority_policy="overflow")
    yield f"*{C}.MSG.NEXT.Q.pg", {"batch": 1, "no_wait": True, "group": "g", "min_pending": 100}
    yield f"*{C}.MSG.NEXT.Q.pg", {"batch": 1, "no_wait": True, "group": "g", "min_pending": 2}
    yield "*$JS.API.DIRECT.GET.Q", {"batch": 3, "seq": 1}
    yield "*$JS.API.DIRECT.GET.Q", {"batch": 3, "next_by_subj": "Q.a"}
    yield "*$JS.API.DIRECT.GET.Q", {"batch": 3, "seq": 90}
    yield "*$JS.API.DIRECT.GET.Q", {"multi_last": ["Q.a", "Q.b"]}
    yield "*$JS.API.DIRECT.GET.Q", {"multi_last": ["Q.>"], "batch": 2}
    yield "*$JS.API.DIRECT.GET.Q", {"multi_last": ["Q.>"], "up_to_seq": 5}
    yield "*$JS.API.DIRECT.GET.Q", {"multi_last": ["Q.nope"]}
    yield "*$JS.API.DIRECT.GET.Q", {"batch": 2, "seq": 2, "max_bytes": 10}
    yield "*$JS.API.DIRECT.GET.Q", {"seq": 5, "next_by_subj": "Q.a"}
    yield "*$JS.API.DIRECT.GET.Q", {"next_by_subj": "Q.a", "no_hdr": True}
    yield "*$JS.API.DIRECT.GET.Q", {"seq": 1, "batch": 2, "no_hdr": True}
    yield "*$JS.API.DIRECT.GET.Q", {"multi_last": ["Q.>"], "no_hdr": True}
    yield "*$JS.API.DIRECT.GET.Q.Q.b", {"no_hdr": True}
    yield "$JS.API.STREAM.MSG.GET.Q", {"seq": 1, "no_hdr": True}
    yield "*$JS.API.DIRECT.GET.Q", {"start_time": "2001-01-01T00:00:00Z", "batch": 1}
    yield "*$JS.API.DIRECT.GET.Q", {"start_time": "2101-01-01T00:00:00Z", "batch": 1}
    yield f"{C}.MSG.NEXT.Q.c", {"batch": 1, "no_wait": True, "group": ""}
    yield f"{C}.DELETE.Q.c", None
    yield f"*{C}.MSG.NEXT.Q.c", {"batch": 1, "no_wait": True}
    yield f"{S}.PURGE.Q", {"filter": "Q.a"}
    yield f"{C}.INFO.Q.mp", None
    yield f"{S}.DELETE.Q", None


def acknowledged_by_flow(stream):
    """Consumers that acknowledge by flow control, and what a copy may say of one (ADR-60)."""

    def made(name="f", **more):
        config = {"durable_name": name, "deliver_subject": "FL.to", "ack_policy": "flow_control", **more}
        return {"stream_name": "FL", "config": {k: v for k, v in config.items() if v is not None}}

    def through(**more):
        return {"name": "FL", "consumer": {"name": "f", "deliver_subject": "to.f"}, **more}

    yield f"{S}.CREATE.FL", stream("FL", subjects=["FL.x"], retention="workqueue")
    yield "FL.x", "one"
    for wrong in (
        {"deliver_subject": None},
        {"ack_wait": 5_000_000_000},
        {"backoff": [1_000_000_000]},
        {"max_deliver": 3},
        {"max_ack_pending": -1},
    ):
        yield f"{C}.CREATE.FL.f", made(**wrong)
    yield f"{C}.CREATE.FL.f", made()
    yield f"{C}.CREATE.FL.f", made(flow_control=False, idle_heartbeat=5_000_000_000)
    yield f"{C}.CREATE.FL.g", made("g", deliver_subject="FL.other")
    yield f"{C}.INFO.FL.f", None
    yield f"{C}.RESET.FL.f", None
    yield f"{C}.LIST.FL", None
    for wrong in (
        through(filter_subject="FL.x"),
        through(opt_start_seq=3),
        {"name": "FL", "consumer": {"name": "f"}},
        {"name": "FL", "consumer": {"deliver_subject": "to.f"}},
        {"name": "FL", "consumer": {"name": "f.g", "deliver_subject": "to.f"}},
        {"name": "FL", "consumer": {"name": "f", "deliver_subject": "to.*"}},
        {"name": "FL", "consumer": {}},
    ):
        yield f"{S}.CREATE.FS", {"name": "FS", "sources": [wrong]}
        yield f"{S}.CREATE.FM", {"name": "FM", "mirror": wrong}
    yield f"{S}.CREATE.FS", {"name": "FS", "sources": [through(), through()]}
    renamed = through(subject_transforms=[{"src": "FL.>", "dest": "G.>"}])
    yield f"{S}.CREATE.FS", {"name": "FS", "sources": [through(), renamed]}
    yield f"{C}.DELETE.FL.f", None
    yield f"{S}.DELETE.FL", None
