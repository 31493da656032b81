"""Ask a server for samples within a deadline.

anytime serve mnist &
python examples/http_client.py http://127.0.0.1:8000
"""

import sys

from anytime_ar.client import Client

url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000"
with Client(url) as client:
    result = client.sample(4, deadline_s=2, seed=0)
    print(f"{result.codes_drawn} codes, {len(result.data)} samples, {result.stop_reason}")
