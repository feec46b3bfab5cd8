"""Jobs of Bedrock's batch inference: their input and output on S3, submitted once, found again.

Everything lies under `batch.s3_uri`, in a folder named by the hash of what is asked:

    <hash>/input.jsonl     the records          <hash>/job-0.json  the job's ARN, its recordIds
    <hash>/output-0/...    what Bedrock writes  open/<hash>-0      there until all answers are read

so that whoever asks the same again finds the job instead of paying for a second; so does a killed
run that had kept some of the answers and asks for the rest, by the marks under open/. A job that
ended and answered nothing is followed by job-1. Nothing else is ever deleted; a lifecycle rule of
the bucket may. Not here: what a record says (records.py), who asks what (batch.py).
"""

from __future__ import annotations

import functools
import json
import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from typing import Any

from tenacity import retry, retry_if_exception, stop_after_attempt, wait_fixed

from labeling.engines.bedrock.aws import aws_client, batch_advice, error_code, explained
from labeling.engines.config import BatchConfig, BedrockEngineConfig
from labeling.errors import LabelingError

_ENDED = frozenset({"Completed", "PartiallyCompleted", "Failed", "Stopped", "Expired"})
_TAKEN = frozenset({"PreconditionFailed", "412"})
_AT_THE_SAME_TIME = frozenset({"ConditionalRequestConflict", "409"})
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """A submitted job; `output`: prefix of what Bedrock writes; `mark`: the key under open/."""

    arn: str
    output: str
    mark: str
    record_ids: frozenset[str]


@dataclass(frozen=True)
class JobState:
    """One of Bedrock's statuses, what it says about it, and records processed, of how many."""

    status: str
    message: str
    done: int | None
    total: int | None

    @property
    def has_ended(self) -> bool:
        """Whether the status is a final one."""
        return self.status in _ENDED


class BatchJobs:
    """Jobs of one engine. Every method raises LabelingError where AWS refuses, with what to do."""

    def __init__(self, config: BedrockEngineConfig, batch: BatchConfig) -> None:
        self._config, self._batch = config, batch
        bucket, _, prefix = batch.s3_uri.removeprefix("s3://").partition("/")
        self._bucket, self._prefix = bucket, prefix.rstrip("/") + "/" if prefix else ""
        self._s3, self._bedrock = (
            aws_client(config, service, retries=config.max_retries) for service in ("s3", "bedrock")
        )

    def find(self, name: str) -> Job | int:
        """The job for the content of this name, running or with answers; else a number for one."""
        known = len(self._keys(f"{self._prefix}{name}/job-"))
        if known == 0:
            return 0
        job = self._recorded(name, known - 1)
        return job if self.is_of_use(job) else known

    def is_of_use(self, job: Job) -> bool:
        """Whether the job runs or has answered a record."""
        state = self._state(job)
        if not state.has_ended or any("modelOutput" in record for record in self.records(job)):
            return True
        _log.info("batch job %s ended as %s without an answer", job.arn, state.status)
        return False

    def unfinished(self) -> Iterator[Job]:
        """Jobs of which nobody has said that all their answers are read."""
        for mark in self._keys(f"{self._prefix}open/"):
            name, _, number = mark.rpartition("/")[2].rpartition("-")
            # Without a record it was never submitted, or it is found by its name.
            if number.isdigit() and self._keys(self._record(name, int(number))):
                yield self._recorded(name, int(number))

    def finish(self, job: Job) -> None:
        """All that was asked of the job has been read and handed over."""
        with self._explained(f"removing {self._uri(job.mark)}"):
            self._s3.delete_object(Bucket=self._bucket, Key=job.mark)

    def submit(self, name: str, number: int, body: bytes, record_ids: Iterable[str]) -> Job:
        """Starts a job on `body` (JSONL); all who do so under one name and number get one job."""
        source, record = f"{self._prefix}{name}/input.jsonl", self._record(name, number)
        is_new = self._create(source, body)
        job_name = f"roundhouse-{name}-{number}"
        output = f"{self._prefix}{name}/output-{number}/"
        self._create(self._mark(name, number), b"")
        # Someone may have been killed between the submission and the record of it.
        arn = None if is_new and number == 0 else self._arn_of(job_name)
        if arn is None:
            arn = self._start(job_name, f"{name}-{number}", source, output)
            _log.info("submitted batch job %s for %s", arn, self._uri(source))
        written = {"jobArn": arn, "output": output, "recordIds": list(record_ids)}
        self._create(record, json.dumps(written).encode())
        return self._recorded(name, number)

    def wait(self, job: Job) -> JobState:
        """Blocks until the job has ended, which Bedrock sees to after `timeout_hours`."""
        told = None
        while True:
            state = self._state(job)
            if state != told:
                counts = state.done, state.total
                _log.info("batch job %s: %s, %s of %s records", job.arn, state.status, *counts)
            if state.has_ended:
                return state
            told = state
            time.sleep(self._batch.poll_seconds)

    def records(self, job: Job) -> Iterator[dict[str, Any]]:
        """All of all output files, in an order that says nothing; not those of the manifest."""
        for key in self._keys(job.output):
            if not key.endswith(".jsonl.out"):
                continue
            with self._explained(f"reading {self._uri(key)}"), self._opened(key) as body:
                for number, line in enumerate(body.iter_lines(chunk_size=1 << 20), start=1):
                    record = _parsed(line)
                    if record is None:
                        _log.warning("%s, line %d is no record", self._uri(key), number)
                    else:
                        yield record

    def close(self) -> None:
        """Closes connections; jobs run on."""
        self._s3.close()
        self._bedrock.close()

    def _state(self, job: Job) -> JobState:
        with self._explained(f"asking for {job.arn}"):
            found = self._bedrock.get_model_invocation_job(jobIdentifier=job.arn)
        counts = found.get("processedRecordCount"), found.get("totalRecordCount")
        return JobState(found["status"], found.get("message", ""), *counts)

    def _start(self, job_name: str, token: str, source: str, output: str) -> str:
        with self._explained(f"submitting {self._uri(source)} to {self._config.model}"):
            answer = self._bedrock.create_model_invocation_job(
                jobName=job_name,
                clientRequestToken=token,
                roleArn=self._batch.role_arn,
                modelId=self._config.model,
                modelInvocationType=self._batch.input_type,
                inputDataConfig={
                    "s3InputDataConfig": {"s3Uri": self._uri(source), "s3InputFormat": "JSONL"}
                },
                outputDataConfig={"s3OutputDataConfig": {"s3Uri": self._uri(output)}},
                timeoutDurationInHours=self._batch.timeout_hours,
            )
        return str(answer["jobArn"])

    def _arn_of(self, job_name: str) -> str | None:
        with self._explained(f"looking for job {job_name}"):
            found = self._bedrock.list_model_invocation_jobs(nameContains=job_name)
        jobs = found.get("invocationJobSummaries", [])
        return next((job["jobArn"] for job in jobs if job["jobName"] == job_name), None)

    def _record(self, name: str, number: int) -> str:
        return f"{self._prefix}{name}/job-{number}.json"

    def _mark(self, name: str, number: int) -> str:
        return f"{self._prefix}open/{name}-{number}"

    def _recorded(self, name: str, number: int) -> Job:
        key = self._record(name, number)
        with self._explained(f"reading {self._uri(key)}"), self._opened(key) as body:
            text = body.read()
        record = _parsed(text) or {}
        if not {"jobArn", "output", "recordIds"} <= record.keys():
            raise LabelingError(f"{self._uri(key)} is no record of a job; remove it to start anew")
        mark, ids = self._mark(name, number), frozenset(record["recordIds"])
        return Job(record["jobArn"], record["output"], mark, ids)

    def _opened(self, key: str) -> AbstractContextManager[Any]:
        return closing(self._s3.get_object(Bucket=self._bucket, Key=key)["Body"])

    def _keys(self, prefix: str) -> list[str]:
        where = {"Bucket": self._bucket, "Prefix": prefix}
        with self._explained(f"listing {self._uri(prefix)}"):
            pages = self._s3.get_paginator("list_objects_v2").paginate(**where)
            return sorted(item["Key"] for page in pages for item in page.get("Contents", []))

    def _create(self, key: str, body: bytes) -> bool:
        """Whether the object was not there before; what is there is never overwritten."""
        put = retry(
            retry=retry_if_exception(lambda error: error_code(error) in _AT_THE_SAME_TIME),
            stop=stop_after_attempt(5),
            wait=wait_fixed(1),
            reraise=True,
        )(self._s3.put_object)
        with self._explained(f"writing {self._uri(key)}"):
            try:
                put(Bucket=self._bucket, Key=key, Body=body, IfNoneMatch="*")
            except self._s3.exceptions.ClientError as error:
                if error_code(error) in _TAKEN:
                    return False
                raise
        return True

    def _uri(self, key: str) -> str:
        return f"s3://{self._bucket}/{key}"

    def _explained(self, doing: str) -> AbstractContextManager[None]:
        return explained(doing, functools.partial(batch_advice, self._config, self._batch))


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None
