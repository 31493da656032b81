"""The serving engine: scheduler, admission control, fairness, model runners, costs, worker thread."""
