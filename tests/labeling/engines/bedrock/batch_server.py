"""Bedrock's batch inference for tests: the control plane over HTTP, its files on a real S3 server.

What is asked is held against AWS's own shapes and limits (botocore's service model); what is
written is shuffled, over several files, beside a manifest that must not be read. Converse, for what
is too few for a job, is chat_server's.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import boto3
import botocore.session
from aiohttp import web
from botocore.validate import ParamValidator

from labeling.engines.chat import ChatEngine, ChatRequest
from labeling.engines.config import BedrockEngineConfig
from labeling.engines.load import load_chat_engine
from tests.labeling.chat_bodies import converse_body
from tests.labeling.chat_server import ChatServer, serving

MODEL = "anthropic.claude-3-haiku-20240307-v1:0"

Record = dict[str, Any]
Reply = Callable[[int, Record], list[Record]]  # place and input record -> output records
ENDED = {"Completed", "PartiallyCompleted", "Failed", "Stopped", "Expired"}
_NAME = r"[a-zA-Z0-9]{1,63}(-*[a-zA-Z0-9\+\-\.]){0,63}"
_TOKEN = r"[a-zA-Z0-9]{1,256}(-*[a-zA-Z0-9]){0,256}"


def text_of(record: Record) -> str:
    return record["modelInput"]["messages"][-1]["content"][0]["text"]


def answered(record: Record, text: str | None = None) -> Record:
    """An output line as AWS documents it."""
    reply = f"answer to {text_of(record)}" if text is None else text
    return record | {"modelOutput": converse_body(reply, "end_turn")}


def by_tool(record: Record, score: object) -> Record:
    """As Claude answers when it must call the tool that was offered."""
    (tool,) = record["modelInput"]["toolConfig"]["tools"]
    use = {
        "toolUseId": "t1",
        "name": tool["toolSpec"]["name"],
        "input": {"rationale": "because", "score": score},
    }
    line = answered(record)
    line["modelOutput"] |= {
        "output": {"message": {"role": "assistant", "content": [{"toolUse": use}]}},
        "stopReason": "tool_use",
    }
    return line


def failed(record: Record, code: object, message: str = "made to fail") -> Record:
    return record | {"error": {"errorCode": code, "errorMessage": message}}


@dataclass
class BatchServer(ChatServer):
    """`statuses` are what a job goes through, one per question; output is there at the last."""

    s3: Any = None
    bucket: str = field(default_factory=lambda: f"bucket-{uuid.uuid4().hex}")
    statuses: tuple[str, ...] = ("Submitted", "InProgress", "Completed")
    message: str = ""
    replies: Reply = field(default=lambda _, record: [answered(record)])
    files: int = 2
    torn: str = ""  # the text of one more output file
    min_records: int = 2
    refusal: tuple[int, str, str] | None = None  # of submissions
    silence: tuple[int, str, str] | None = None  # to questions about a job
    forgets_tokens: bool = False
    goes_on: threading.Event | None = None  # the answer to a submission waits for it
    single: str | None = None  # what Converse says to all; None: chat_server's answers
    jobs: dict[str, Record] = field(default_factory=dict)

    def app(self) -> web.Application:
        app = super().app()
        app.router.add_post("/model-invocation-job", self._create)
        app.router.add_get("/model-invocation-job/{arn:.+}", self._get)
        app.router.add_get("/model-invocation-jobs", self._list)
        return app

    @property
    def inputs(self) -> list[list[Record]]:
        """The records of every job, in the order of submission."""
        return [job["records"] for job in self.jobs.values()]

    async def _bedrock(self, request: web.Request) -> web.Response:
        if self.single is None:
            return await super()._bedrock(request)
        self.bodies.append(await request.json())
        return web.json_response(converse_body(self.single, "end_turn"))

    async def _create(self, request: web.Request) -> web.Response:
        if self.refusal is not None:
            return _refused(*self.refusal)
        body = await request.json()
        for arn, job in self.jobs.items():
            if not self.forgets_tokens and job["clientRequestToken"] == body["clientRequestToken"]:
                return web.json_response({"jobArn": arn})
        try:
            records = self._checked(body)
        except AssertionError as wrong:
            return _refused(400, "ValidationException", str(wrong))
        arn = f"arn:aws:bedrock:us-east-1:123456789012:model-invocation-job/{len(self.jobs):012d}"
        statuses = list(self.statuses)
        self.jobs[arn] = body | {"jobArn": arn, "records": records, "statuses": statuses}
        while self.goes_on is not None and not self.goes_on.is_set():
            await asyncio.sleep(0.01)
        return web.json_response({"jobArn": arn})

    async def _get(self, request: web.Request) -> web.Response:
        if self.silence is not None:
            return _refused(*self.silence)
        job = self.jobs.get(request.match_info["arn"])
        if job is None:
            return _refused(404, "ResourceNotFoundException", "no such job")
        status = job["statuses"].pop(0) if len(job["statuses"]) > 1 else job["statuses"][0]
        if status in ENDED and "isWritten" not in job:
            job["isWritten"] = True
            self._write(job)
        return web.json_response(self._shown(job) | {"status": status, "message": self.message})

    async def _list(self, request: web.Request) -> web.Response:
        part = request.query.get("nameContains", "")
        found = [self._shown(job) for job in self.jobs.values() if part in job["jobName"]]
        return web.json_response({"invocationJobSummaries": found})

    def _shown(self, job: Record) -> Record:
        names = ("jobArn", "jobName", "modelId", "roleArn", "inputDataConfig", "outputDataConfig")
        times = {"submitTime": "2026-11-21T00:00:00Z", "status": job["statuses"][0]}
        return {name: job[name] for name in names} | times

    def _checked(self, body: Record) -> list[Record]:
        assert re.fullmatch(_NAME, body["jobName"])
        assert len(body["jobName"]) <= 63
        assert re.fullmatch(_TOKEN, body["clientRequestToken"])
        assert body["roleArn"].startswith("arn:aws:iam::123456789012:role/")
        assert body["modelInvocationType"] == "Converse"
        assert 24 <= body["timeoutDurationInHours"] <= 168
        source = body["inputDataConfig"]["s3InputDataConfig"]
        assert source["s3InputFormat"] == "JSONL"
        assert source["s3Uri"].endswith(".jsonl")
        text = self._object(source["s3Uri"]).decode("utf-8")
        records = [json.loads(line) for line in text.splitlines()]
        assert len(records) >= self.min_records, f"{len(records)} records are too few"
        assert len({record["recordId"] for record in records}) == len(records)
        assert all(re.fullmatch("[a-zA-Z0-9]{11}", record["recordId"]) for record in records)
        model = botocore.session.get_session().get_service_model("bedrock-runtime")
        shape = model.operation_model("Converse").input_shape
        for record in records:
            assert set(record) == {"recordId", "modelInput"}
            assert "modelId" not in record["modelInput"]
            asked = record["modelInput"] | {"modelId": body["modelId"]}
            report = ParamValidator().validate(asked, shape)
            assert not report.has_errors(), report.generate_report()
        return records

    def _write(self, job: Record) -> None:
        """Every reply, shuffled, over the files; a manifest with a record that nobody may read."""
        lines = [
            json.dumps(line, ensure_ascii=False)
            for place, record in enumerate(job["records"])
            for line in self.replies(place, record)
        ]
        random.Random(1).shuffle(lines)
        output = job["outputDataConfig"]["s3OutputDataConfig"]["s3Uri"]
        folder = f"{output}{job['jobArn'].rpartition('/')[2]}"
        if not lines:
            return
        for number in range(self.files):
            name = f"{folder}/input{number or ''}.jsonl.out"
            self._put(name, "".join(f"{line}\n" for line in lines[number :: self.files]))
        if self.torn:
            self._put(f"{folder}/torn.jsonl.out", self.torn)
        trap = answered(job["records"][0], "from the manifest")
        self._put(f"{folder}/manifest.json.out", json.dumps(trap))

    def _object(self, uri: str) -> bytes:
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        return self.s3.get_object(Bucket=bucket, Key=key)["Body"].read()

    def _put(self, uri: str, text: str) -> None:
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        self.s3.put_object(Bucket=bucket, Key=key, Body=text.encode())


def _refused(status: int, code: str, message: str) -> web.Response:
    headers = {"x-amzn-ErrorType": code}
    return web.json_response({"message": message}, status=status, headers=headers)


# ----- where it runs and who asks it


@contextmanager
def batches(s3_url: str) -> Iterator[tuple[BatchServer, dict[str, str]]]:
    """The control plane and Converse, a bucket of its own, and the variables that lead there."""
    environment = {
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_ENDPOINT_URL_S3": s3_url,
    }
    keys = {"aws_access_key_id": "x", "aws_secret_access_key": "x"}
    s3 = boto3.client("s3", region_name="us-east-1", endpoint_url=s3_url, **keys)
    server = BatchServer(s3=s3)
    with serving(server):
        s3.create_bucket(Bucket=server.bucket)
        for service in ("BEDROCK", "BEDROCK_RUNTIME"):
            environment[f"AWS_ENDPOINT_URL_{service}"] = f"http://127.0.0.1:{server.port}"
        yield server, environment


def config_of(
    bucket: str, *, batch: Record | None = None, **changes: object
) -> BedrockEngineConfig:
    return BedrockEngineConfig.model_validate(
        {
            "kind": "bedrock",
            "model": MODEL,
            "region": "us-east-1",
            "max_retries": 0,
            "batch": {
                "s3_uri": f"s3://{bucket}/night",
                "role_arn": "arn:aws:iam::123456789012:role/batch",
                "min_records": 2,
                "poll_seconds": 0.01,
            }
            | (batch or {}),
        }
        | changes
    )


def engine_for(server: BatchServer, **changes: object) -> ChatEngine:
    return load_chat_engine(config_of(server.bucket, **changes))  # type: ignore[arg-type]


def asked(*texts: str) -> list[ChatRequest]:
    return [
        ChatRequest(f"{place}.0.0", ({"role": "user", "content": text},), max_tokens=10)
        for place, text in enumerate(texts)
    ]


def keys_of(server: BatchServer) -> list[str]:
    found = server.s3.list_objects_v2(Bucket=server.bucket).get("Contents", [])
    return sorted(item["Key"].split("/", 2)[2] for item in found)
