"""A cluster of replicas in this process: samples of a lost replica are drawn again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import pytest
from serving_fakes import KINDS, SLOW_KINDS, L, tiny_bundle

from anytime_ar.errors import InputError
from anytime_ar.prior import DecodeState
from anytime_ar.sampling import AnytimeModel
from anytime_ar.serving.cluster import load_balancer
from anytime_ar.serving.cluster.gateway import (
    GatewayCodecService,
    GatewaySampleService,
    InFlightRegistry,
    SampleRecord,
)
from anytime_ar.serving.cluster.load_balancer import (
    REPLICA_TIMEOUT_S,
    Dispatcher,
    LoadBalancer,
    ReplicaLostError,
)
from anytime_ar.serving.cluster.replica import RemoteError, Replica, ReplicaReply, ReplicaState
from anytime_ar.serving.config import ServingConfig
from anytime_ar.serving.engine.jobs import RequestContext, ServingError
from anytime_ar.serving.engine.models import NotFoundError
from anytime_ar.serving.engine.sample_service import ConflictError
from anytime_ar.serving.engine.scheduler import ModelStats
from anytime_ar.serving.engine.serving_engine import ServingEngine
from anytime_ar.serving.schema import (
    DecodeRequest,
    PreviewResponse,
    RefineRequest,
    SampleRequest,
    SampleResponse,
    VaryParams,
)
from fake_clock import FakeClock
from processes import PATIENCE_S

NAMES = ("a", "b")


class FakeReplicaPool:
    """Pool of replicas in this process, which a test can lose or freeze."""

    def __init__(self, replicas: dict[str, Replica]) -> None:
        self.replicas = replicas
        self.gone: set[str] = set()
        self.frozen: set[str] = set()
        self.freezing: Callable[[], None] = lambda: None
        """Called when a frozen replica is called."""
        self.lives: dict[str, int] = {}
        """Number of replies that a replica still sends before it is lost."""
        self.answers: dict[str, RemoteError] = {}
        """Errors that replicas reply with to every request for samples."""
        self.calls: list[tuple[str, str, tuple[Any, ...]]] = []

    def running(self) -> frozenset[str]:
        return frozenset(self.replicas) - self.gone

    async def call(
        self, replica: str | None, method: str, *arguments: object
    ) -> AsyncGenerator[ReplicaReply]:
        name = replica or min(self.running())
        if method != "report_state":
            self.calls.append((name, method, arguments))
        if name in self.gone:
            raise ReplicaLostError(name)
        if name in self.frozen:
            if method != "report_state":
                self.freezing()
            await asyncio.sleep(3600)
        if name in self.answers and method == "sample":
            yield ReplicaReply(name, ReplicaState(ready=True, stats={}), self.answers[name])
            return
        async for reply in getattr(self.replicas[name], method)(*arguments):
            if method != "report_state" and name in self.lives:
                self.lives[name] -= 1
                if self.lives[name] < 0:
                    self.gone.add(name)
            if name in self.gone:
                raise ReplicaLostError(name)
            yield reply


class FakeCluster:
    """Two replicas and their gateway. The clock stands still, so that no replica is slow."""

    def __init__(self, pool: FakeReplicaPool, service: ServingConfig) -> None:
        self.pool = pool
        self.clock = FakeClock(100.0)
        self.dispatcher = Dispatcher(pool, self.clock)
        self.samples = GatewaySampleService(self.dispatcher, service, self.clock)
        self.codec = GatewayCodecService(self.dispatcher)

    def call(self, client: str = "me") -> RequestContext:
        return RequestContext(self.clock, self.clock(), client=client)

    async def all_of(self, drawing: AsyncGenerator[PreviewResponse]) -> list[PreviewResponse]:
        return [drawn async for drawn in drawing]

    async def sample(self, **wanted: Any) -> SampleResponse:
        request = SampleRequest(with_codes=True, **wanted)
        return answer_of(await self.all_of(self.samples.sample(request, self.call())))

    async def refine(self, name: str, **wanted: Any) -> SampleResponse:
        request = RefineRequest(with_codes=True, **wanted)
        return answer_of(await self.all_of(self.samples.refine(name, request, self.call())))


def answer_of(replies: list[PreviewResponse]) -> SampleResponse:
    assert isinstance(replies[-1], SampleResponse)
    return replies[-1]


@pytest.fixture(scope="module")
def alone() -> dict[str, AnytimeModel]:
    return {"image": AnytimeModel(tiny_bundle(), device="cpu")}


@pytest.fixture(scope="session")
def of_kind(kind: str) -> dict[str, AnytimeModel]:
    """The model of each kind, as the only one that is served."""
    return {"image": AnytimeModel(tiny_bundle(KINDS[kind]), device="cpu")}


@pytest.fixture(scope="session")
def slow_of_kind(kind: str) -> dict[str, AnytimeModel]:
    """A model of each kind with many codes, as the only one that is served."""
    return {"slow": AnytimeModel(tiny_bundle(SLOW_KINDS[kind]), device="cpu")}


@pytest.fixture
def pace(
    slow_of_kind: dict[str, AnytimeModel], monkeypatch: pytest.MonkeyPatch
) -> Callable[[float], None]:
    """Lets each step of the slow model take so many seconds more from now on."""
    decoder = slow_of_kind["slow"].sampler.decoder
    real_step = decoder.step

    def slow_down(seconds: float) -> None:
        def step(rows: DecodeState[Any], count: int) -> None:
            time.sleep(seconds)
            real_step(rows, count)

        monkeypatch.setattr(decoder, "step", step)

    return slow_down


def run_scene(
    models: dict[str, AnytimeModel], scene: Callable[[FakeCluster], Awaitable[None]], **service: Any
) -> None:
    """A scene with two replicas."""

    promised = ServingConfig(**{"deadline_s": 600.0, **service})

    async def run() -> None:
        async with AsyncExitStack() as stack:
            replicas = {}
            for name in NAMES:
                engine = ServingEngine(models, promised, time.perf_counter)
                engine.worker.start()
                stack.callback(engine.worker.stop)
                await engine.warm_up()
                replicas[name] = Replica(name, engine, time.perf_counter)
            cluster = FakeCluster(FakeReplicaPool(replicas), promised)
            await cluster.dispatcher.broadcast("report_state")
            await scene(cluster)

    asyncio.run(run())


def test_draws_are_those_of_the_model_alone_and_go_to_all_replicas(
    of_kind: dict[str, AnytimeModel],
) -> None:
    async def scene(cluster: FakeCluster) -> None:
        for seed in range(6):
            answer = await cluster.sample(model="image", seed=seed, n=2)
            assert answer.codes == of_kind["image"].sample_codes(2, seed=seed).tolist()
            assert answer.stop_reason == "complete"
        assert {name for name, _, _ in cluster.pool.calls} == set(NAMES)
        assert len(cluster.samples) == 0
        with pytest.raises(InputError, match="label 'purple' is unknown"):
            await cluster.sample(model="image", label="purple")
        with pytest.raises(NotFoundError, match="model 'none' is not served"):
            await cluster.sample(model="none")
        codes = ((1, 2, 3),)
        decoded = await cluster.codec.decode(
            DecodeRequest(model="image", codes=codes, format="npy"), cluster.call()
        )
        assert decoded.model == "image"
        assert len(decoded.samples) == 1

    run_scene(of_kind, scene)


def test_a_draw_outlives_its_replica_and_shows_nothing_twice(
    slow_of_kind: dict[str, AnytimeModel], pace: Callable[[float], None]
) -> None:
    async def scene(cluster: FakeCluster) -> None:
        pace(0.003)  # time to show a preview after each code
        first = cluster.dispatcher.load_balancer.choose(cluster.pool.running())
        assert first is not None
        cluster.pool.lives[first] = 3
        request = SampleRequest(
            model="slow", seed=5, stream=True, previews_per_s=1000, with_codes=True
        )
        replies = await cluster.all_of(cluster.samples.sample(request, cluster.call()))
        assert cluster.pool.gone == {first}
        drawn = [one.codes_drawn for one in replies[:-1]]
        assert len(drawn) > 3
        assert drawn == sorted(set(drawn))
        assert answer_of(replies).codes == slow_of_kind["slow"].sample_codes(1, seed=5).tolist()
        ids = {one.id for one in replies}
        assert len(ids) == 1  # the same draw, for its client

    run_scene(slow_of_kind, scene)


def test_what_one_has_no_room_for_another_may_and_if_none_has_the_mildest_refusal_counts(
    alone: dict[str, AnytimeModel],
) -> None:
    async def scene(cluster: FakeCluster) -> None:
        busy = {
            name: RemoteError("serving", f"{name} is full", "overloaded", retry_s)
            for name, retry_s in zip(NAMES, (3.0, 2.0), strict=True)
        }
        for name in NAMES:
            cluster.pool.answers = {name: busy[name]}
            for seed in range(2):
                assert (await cluster.sample(model="image", seed=seed)).codes_drawn == L
        cluster.pool.answers = busy
        with pytest.raises(ServingError, match="b is full") as refused:
            await cluster.sample(model="image")
        assert refused.value.retry_after_s == 2.0
        cluster.pool.gone = set(NAMES)
        with pytest.raises(ServingError, match="no replica is running") as broken:
            await cluster.sample(model="image")
        assert broken.value.reason == "broken"

    run_scene(alone, scene)


def test_time_that_was_lost_counts(alone: dict[str, AnytimeModel]) -> None:
    async def scene(cluster: FakeCluster) -> None:
        call = cluster.call()
        call.arrival -= 600.0  # longer than anything may take
        with pytest.raises(ServingError) as late:
            await cluster.all_of(cluster.samples.sample(SampleRequest(model="image"), call))
        assert late.value.reason in ("deadline", "overloaded")
        (_, _, arguments) = cluster.pool.calls[-1]
        assert arguments[-1].elapsed_s > 600.0

    run_scene(alone, scene)


def test_a_draw_goes_on_where_it_is_and_elsewhere_if_that_is_lost(
    of_kind: dict[str, AnytimeModel],
) -> None:
    async def scene(cluster: FakeCluster) -> None:
        whole = of_kind["image"].sample_codes(2, seed=7, label="owl").tolist()
        first = await cluster.sample(model="image", seed=7, n=2, label="owl", codes=3)
        assert first.codes == [row[:3] for row in whole]
        more = await cluster.refine(first.id, codes=5)
        assert more.codes == [row[:5] for row in whole]
        (drew, *_), (refined, method, _) = cluster.pool.calls
        assert (refined, method) == (drew, "refine")
        cluster.pool.gone.add(drew)
        rest = await cluster.refine(first.id)
        assert rest.codes == whole
        assert rest.id == first.id
        assert await cluster.samples.stop(first.id, cluster.call()) is None  # it had ended
        with pytest.raises(NotFoundError):
            await cluster.samples.stop(first.id, cluster.call())
        assert (await cluster.refine(first.id)).codes == whole  # the stop was a moment too late
        assert await cluster.samples.stop(first.id, cluster.call()) is None

    run_scene(of_kind, scene)


def test_fixed_codes_and_variations_survive_the_loss_of_a_replica(
    of_kind: dict[str, AnytimeModel],
) -> None:
    model = of_kind["image"]

    async def scene(cluster: FakeCluster) -> None:
        fixed = ((3, -1, 5),)
        options = {"n": 2, "label": "owl", "seed": 7}
        whole = model.sample_codes(**options, fixed_codes=fixed)
        first = await cluster.sample(model="image", **options, fixed_codes=fixed, codes=6)
        assert first.codes == whole[:, :6].tolist()
        ask = {
            "model": "image",
            "n": 3,
            "seed": 8,
            "vary": VaryParams(id=first.id, index=1, keep=4),
        }
        varied = await cluster.sample(**ask)
        expected = model.vary(whole[1:], keep=4, n=3, seed=8, label="owl").codes.tolist()
        assert varied.codes == expected
        cluster.pool.gone.add(cluster.pool.calls[0][0])
        assert (await cluster.sample(**ask)).codes == expected  # the session is lost
        assert (await cluster.refine(first.id)).codes == whole.tolist()
        assert (await cluster.refine(varied.id)).codes == expected
        for request, message in (
            (VaryParams(id=first.id, index=2, keep=1), r"vary.index=2 is outside 0..1"),
            (VaryParams(id="not-there", keep=1), "there are no samples with the id 'not-there'"),
        ):
            with pytest.raises(InputError, match=message):
                await cluster.sample(model="image", vary=request)
        strange = SampleRequest(vary=VaryParams(id=first.id, keep=1))
        with pytest.raises(NotFoundError):
            await cluster.all_of(cluster.samples.sample(strange, cluster.call("somebody")))

    run_scene(of_kind, scene)


def test_another_gateway_finds_a_draw(of_kind: dict[str, AnytimeModel]) -> None:
    async def scene(cluster: FakeCluster) -> None:
        first = await cluster.sample(model="image", seed=7, codes=3)
        other = FakeCluster(cluster.pool, ServingConfig())
        more = await other.refine(first.id)
        assert more.codes == of_kind["image"].sample_codes(1, seed=7).tolist()
        cluster.pool.gone.add(
            cluster.pool.calls[0][0]
        )  # only the first gateway could draw it again
        with pytest.raises(NotFoundError):
            await FakeCluster(cluster.pool, ServingConfig()).refine(first.id)

    run_scene(of_kind, scene)


def test_a_draw_can_be_stopped_by_its_client(
    slow_of_kind: dict[str, AnytimeModel], pace: Callable[[float], None]
) -> None:
    async def scene(cluster: FakeCluster) -> None:
        pace(0.1)  # 10 s or more for all codes
        request = SampleRequest(
            model="slow", seed=5, id="mine-alone", stream=True, previews_per_s=1000
        )
        draw = cluster.samples.sample(request, cluster.call())
        await anext(draw)
        drawing = asyncio.ensure_future(cluster.all_of(draw))
        with pytest.raises(NotFoundError):
            await cluster.samples.stop("mine-alone", cluster.call("somebody"))
        with pytest.raises(ConflictError, match="still being generated"):
            await cluster.refine("mine-alone")
        with pytest.raises(ConflictError, match="taken"):
            await cluster.sample(model="slow", id="mine-alone")
        stopped = await cluster.samples.stop("mine-alone", cluster.call())
        assert stopped is not None
        assert stopped.stop_reason == answer_of(await drawing).stop_reason == "cancelled"
        assert 1 <= stopped.codes_drawn < slow_of_kind["slow"].code_length
        assert len(cluster.samples) == 0

        later = SampleRequest(model="slow", id="on-its-way")
        drawing = asyncio.ensure_future(
            cluster.all_of(cluster.samples.sample(later, cluster.call()))
        )
        await asyncio.sleep(0)  # no replica knows it yet
        with pytest.raises(ServingError, match="before its first code"):
            await cluster.samples.stop("on-its-way", cluster.call())
        with pytest.raises(ServingError, match="before its first code"):
            await drawing

    run_scene(slow_of_kind, scene)


def test_a_client_that_leaves_stops_its_draw(
    slow_of_kind: dict[str, AnytimeModel], pace: Callable[[float], None]
) -> None:
    async def scene(cluster: FakeCluster) -> None:
        pace(0.1)  # 10 s or more for all codes
        request = SampleRequest(model="slow", stream=True, previews_per_s=1000)
        drawing = cluster.samples.sample(request, cluster.call())
        await anext(drawing)
        await drawing.aclose()
        assert len(cluster.samples) == 0
        until = time.monotonic() + PATIENCE_S
        while any(one.engine.stats()["slow"].running for one in cluster.pool.replicas.values()):
            assert time.monotonic() < until
            await asyncio.sleep(0.001)

    run_scene(slow_of_kind, scene)


def test_a_replica_that_hangs_is_given_up(
    alone: dict[str, AnytimeModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load_balancer, "_STATE_POLL_S", 0.02)

    async def scene(cluster: FakeCluster) -> None:
        watching = asyncio.ensure_future(cluster.dispatcher.poll_replicas())
        hangs = cluster.dispatcher.load_balancer.choose(cluster.pool.running())
        assert hangs is not None
        cluster.pool.frozen.add(hangs)
        cluster.pool.freezing = lambda: cluster.clock.pass_by(REPLICA_TIMEOUT_S + 1.0)
        answer = await cluster.sample(model="image", seed=3)
        assert answer.codes == alone["image"].sample_codes(1, seed=3).tolist()
        assert [name for name, _, _ in cluster.pool.calls] == [
            hangs,
            next(name for name in NAMES if name != hangs),
        ]
        monkeypatch.setattr(load_balancer, "REPLICA_TIMEOUT_S", 0.1)
        await asyncio.wait_for(
            cluster.dispatcher.broadcast("drain", 0.2), PATIENCE_S
        )  # nor waited for
        watching.cancel()

    run_scene(alone, scene)


def test_draining_answers_what_is_under_way(
    slow_of_kind: dict[str, AnytimeModel], pace: Callable[[float], None]
) -> None:
    async def scene(cluster: FakeCluster) -> None:
        pace(0.1)  # 10 s or more for all codes
        request = SampleRequest(model="slow", seed=5, stream=True, previews_per_s=1000)
        draw = cluster.samples.sample(request, cluster.call())
        await anext(draw)
        drawing = asyncio.ensure_future(cluster.all_of(draw))
        cluster.samples.draining = True
        await cluster.dispatcher.broadcast("drain", 0.2)
        answer = answer_of(await drawing)
        assert answer.stop_reason in ("drain", "deadline", "complete")
        with pytest.raises(ServingError) as refused:
            await cluster.sample(model="slow")
        assert refused.value.reason == "draining"

    run_scene(slow_of_kind, scene)


def state(backlog_s: float, *, ready: bool = True) -> ReplicaState:
    work = ModelStats(rows=0, slots=8, running=0, waiting=0, backlog_s=backlog_s, sample_s=0.25)
    return ReplicaState(ready, {"m": work})


def test_the_least_work_is_chosen_and_what_was_sent_since_counts() -> None:
    clock = FakeClock(100.0)
    balancer = LoadBalancer(clock)
    balancer.report("a", state(1.0))
    balancer.report("b", state(0.4))
    assert balancer.choose(NAMES) == "b"
    assert balancer.sample_s("m") == balancer.sample_s(None) == 0.25
    assert balancer.sample_s("other") == 0.0
    number = balancer.start_call("b", 0.7)
    assert balancer.choose(NAMES) == "a"
    balancer.end_call("b", number)
    assert balancer.choose(NAMES) == "b"
    clock.now += 0.5  # both work
    assert (balancer.wait_s("a"), balancer.wait_s("b")) == (0.5, 0.0)
    assert balancer.choose(()) is None
    balancer.report("b", state(0.0, ready=False))
    assert balancer.choose(NAMES) == "a"
    assert balancer.choose(("b",)) == "b"  # better than nobody


def test_equals_take_turns_and_the_silent_come_last() -> None:
    clock = FakeClock(100.0)
    balancer = LoadBalancer(clock)
    for name in NAMES:
        balancer.report(name, state(0.0))
    turns = []
    for _ in range(4):
        name = balancer.choose(NAMES)
        assert name is not None
        assert balancer.choose(NAMES[::-1]) == name  # sets come in the order of their hashes
        balancer.end_call(name, balancer.start_call(name, 0.0))
        turns.append(name)
    assert turns == ["a", "b", "a", "b"]
    clock.now += REPLICA_TIMEOUT_S + 0.1
    balancer.report("b", state(5.0))
    assert balancer.state("a") is None
    assert balancer.choose(NAMES) == "b"
    balancer.retain(["a"])
    assert balancer.state("b") is None


def test_mistakes_are_the_same_after_their_way() -> None:
    for error in (
        ServingError("overloaded", "full", 2.0),
        NotFoundError("no such draw"),
        ConflictError("taken"),
        InputError("n=0"),
    ):
        other = RemoteError.from_exception(error).to_exception()
        assert (type(other), str(other)) == (type(error), str(error))
    again = RemoteError.from_exception(ServingError("deadline", "late", None)).to_exception()
    assert isinstance(again, ServingError)
    assert (again.reason, again.retry_after_s) == ("deadline", None)


def test_draws_are_forgotten_after_a_while() -> None:
    clock = FakeClock(100.0)
    registry = InFlightRegistry(10.0, clock)
    record = SampleRecord(SampleRequest(seed=1), "me")
    registry.start("one", record)
    clock.now += 100.0
    assert registry.get("one") is record  # it is under way
    registry.finish("one", refinable=True)
    assert registry.get("one") is record
    clock.now += 10.1
    assert registry.get("one") is None
    registry.start("two", replace(record))
    registry.finish("two", refinable=False)
    assert registry.get("two") is None


def test_what_ended_draws_take_is_bounded() -> None:
    clock = FakeClock(100.0)
    names = tuple("a" for _ in range(1024))
    record = SampleRecord(SampleRequest(seed=1, label=names, n=1024), "me")
    registry = InFlightRegistry(10.0, clock, max_bytes=3 * record.nbytes)
    for name in "abcde":
        registry.start(name, replace(record))
        registry.finish(name, refinable=True)
    assert [name for name in "abcde" if registry.get(name)] == ["c", "d", "e"]
    registry.start("d", replace(record))
    registry.drop("c")
    for name in "fg":
        registry.start(name, SampleRecord(None, "me"))
        registry.finish(name, refinable=True)
    assert [name for name in "cdefg" if registry.get(name)] == ["d", "e", "f", "g"]
