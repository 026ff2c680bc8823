"""A fine-tuning script as it was written for OpenAI: upload, job, events, checkpoint, results, chat.

Nothing in it knows llmtune. Where it goes is said by OPENAI_BASE_URL and OPENAI_API_KEY.
"""

import base64
import time
from pathlib import Path

from openai import OpenAI

client = OpenAI()

files = {}
for name in ("train.jsonl", "valid.jsonl"):
    with Path(name).open("rb") as rows:
        files[name] = client.files.create(file=rows, purpose="fine-tune").id

job = client.fine_tuning.jobs.create(
    model="gpt-4o-mini-2024-07-18",
    training_file=files["train.jsonl"],
    validation_file=files["valid.jsonl"],
    suffix="departments",
    seed=11,
    method={
        "type": "supervised",
        "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": 8, "learning_rate_multiplier": 2.0}},
    },
)
print(f"job {job.id}")

while job.status not in ("succeeded", "failed", "cancelled"):
    time.sleep(1)
    job = client.fine_tuning.jobs.retrieve(job.id)
print(f"it {job.status}")
if job.status != "succeeded":
    raise SystemExit(job.error.message if job.error else "without a word")
assert job.fine_tuned_model

events = list(client.fine_tuning.jobs.list_events(job.id, limit=100))
for event in events[1::-1]:
    print(event.message)

checkpoint = client.fine_tuning.jobs.checkpoints.list(job.id).data[0]
print(f"checkpoint at step {checkpoint.step_number}, training loss {checkpoint.metrics.train_loss:.2f}")

results = base64.b64decode(client.files.content(job.result_files[0]).read()).decode()
print(results.splitlines()[0])

answer = client.chat.completions.create(
    model=job.fine_tuned_model,
    messages=[
        {"role": "system", "content": "Name the department: billing, shipping or support."},
        {"role": "user", "content": "When does the lamp arrive?"},
    ],
    max_tokens=12,
    temperature=0,
)
print(f"answered by {answer.model}: {answer.choices[0].message.content}")
