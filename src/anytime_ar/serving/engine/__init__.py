"""The serving engine: scheduler, admission control, fairness, runners, costs, worker thread."""
