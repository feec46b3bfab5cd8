"""What engines on AWS share: a client by configuration, errors that say what to do about them.

Not here: what is called, and errors of one row (converse.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from labeling.engines.config import BatchConfig, BedrockEngineConfig
from labeling.errors import LabelingError, Misconfigured


def aws_client(
    config: BedrockEngineConfig, service: str, *, retries: int, endpoint_url: str | None = None
) -> Any:
    """A client that retries by itself, `retries` times. Raises Misconfigured.

    Another endpoint than AWS's own (a VPC's, a test's) is set as boto3 documents it, for instance
    by the environment variable AWS_ENDPOINT_URL_S3.
    """
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    settings = Config(
        retries={"mode": "standard", "total_max_attempts": retries + 1},
        read_timeout=config.timeout_seconds,
        connect_timeout=min(10.0, config.timeout_seconds),
        max_pool_connections=config.max_in_flight,
    )
    try:
        session = boto3.Session(profile_name=config.profile, region_name=config.region)
        return session.client(service, endpoint_url=endpoint_url, config=settings)
    except (BotoCoreError, ValueError) as error:
        raise Misconfigured(f"cannot reach {service} in {config.region}: {error}") from error


def error_code(error: BaseException) -> str:
    """AWS's name for what went wrong, empty where the error did not come from AWS."""
    response = getattr(error, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))


@contextmanager
def explained(doing: str, advice: Callable[[str], str]) -> Iterator[None]:
    """Turns boto3's errors into a LabelingError: what was done, what AWS says, the advice."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        code, message = error_code(error), error.response["Error"].get("Message", "")
        raise LabelingError(f"{doing}: {code}: {message}; {advice(code)}") from error
    except BotoCoreError as error:
        raise LabelingError(f"{doing}: {error}; {advice('')}") from error


def batch_advice(config: BedrockEngineConfig, batch: BatchConfig, code: str) -> str:
    """What to do about an error of S3 or of batch inference, by AWS's name for it."""
    region, profile = config.region, config.profile or "default"
    if code in {"NoSuchBucket", "PermanentRedirect", "301", "AuthorizationHeaderMalformed"}:
        return f"batch.s3_uri must name a bucket that is there, in {region}"
    if code in {"AccessDenied", "AccessDeniedException", "403", "InvalidAccessKeyId"}:
        return (
            f"profile {profile} needs s3:GetObject, PutObject, DeleteObject and ListBucket on "
            f"{batch.s3_uri}, bedrock:CreateModelInvocationJob, GetModelInvocationJob and "
            f"ListModelInvocationJobs, and iam:PassRole for {batch.role_arn}"
        )
    if code == "ValidationException":
        return (
            f"check that {config.model} offers batch inference in {region}, that "
            f"bedrock.amazonaws.com may take on {batch.role_arn}, that this role may read and "
            f"write {batch.s3_uri}, and batch.min_records against the quotas"
        )
    if code == "ResourceNotFoundException":
        return (
            f"check the model {config.model} in {region}; to submit a job anew that AWS "
            f"has forgotten, remove its job-*.json under {batch.s3_uri}"
        )
    if code == "ServiceQuotaExceededException":
        return "wait until other jobs have ended and run this again"
    return (
        f"check the AWS credentials (profile {profile}) and the network; jobs that were "
        "submitted go on, and running this again finds them"
    )
