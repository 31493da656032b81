"""The load as it is shown."""

from __future__ import annotations

from pathlib import Path

from serving_fakes import L, Stage

from anytime_ar.serving.engine.jobs import RequestContext, SamplingStats
from anytime_ar.serving.engine.scheduler import collect_stats
from anytime_ar.serving.http.monitoring import Monitor


def test_the_load_is_of_the_last_seconds_and_the_rest_is_forgotten(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    watch = Monitor(lambda: collect_stats(stage.scheduler), lambda: True, stage.clock)
    for _ in range(100):
        heard = stage.ask(2, cap=3)
        stage.run()
        ended = SamplingStats.from_event(heard.done)
        call = RequestContext(
            stage.clock, stage.clock(), "a", model="tiny0", codes_requested=L, stats=ended
        )
        watch.record(call)
        stage.clock.now += 1.0
    assert len(watch._recent["tiny0"]) <= 3  # also if nobody ever looks
    shown = watch.load().models[0]
    assert (shown.model, shown.slots, shown.rows, shown.waiting) == ("tiny0", 8, 0, 0)
    assert shown.codes_drawn_share == 3 / L
    stage.clock.now += 10.0
    assert watch.load().models[0].codes_drawn_share is None
