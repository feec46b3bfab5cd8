"""What went wrong on S3, said so that a reader knows what to do next.

boto3's own texts name an operation and a code; ours name bucket, key and the remedy. Not here:
which errors are tried again (s3.py).
"""

from __future__ import annotations

from typing import Any

import botocore.exceptions as boto
from botocore.exceptions import ClientError

from warehouse.errors import MissingObject, StoreError
from warehouse.store.s3_address import S3Address

MISSING = frozenset({"404", "NoSuchKey", "NotFound"})
TAKEN = frozenset({"412", "PreconditionFailed"})
# The server asks for the same request once more; botocore does not retry it by itself.
CONFLICT = frozenset({"409", "ConditionalRequestConflict", "OperationAborted"})
_DENIED = frozenset({"403", "AccessDenied", "AllAccessDisabled", "AccountProblem"})
_WRONG_REGION = frozenset(
    {"301", "PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraint"}
)
_UNKNOWN_KEYS = frozenset(
    [
        "InvalidAccessKeyId",
        "SignatureDoesNotMatch",
        "ExpiredToken",
        "InvalidToken",
        "InvalidSecurity",
    ]
)
_BUSY = frozenset({"SlowDown", "503", "ServiceUnavailable", "Throttling", "TooManyRequests"})
_NO_KEYS = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.CredentialRetrievalError,
    boto.ProfileNotFound,
    boto.SSOError,
    boto.TokenRetrievalError,
    boto.MetadataRetrievalError,
)
# AWS has no such limit; servers of one's own do (MinIO, Ceph's quotas; 507 is HTTP's own).
_FULL = frozenset(
    {"XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "QuotaExceeded", "InsufficientStorage"}
)
_AGAIN = "what was finished is kept: the same command goes on"


def code(error: Exception) -> str:
    """The code of an answer that is an error; empty for what never was an answer."""
    if not isinstance(error, ClientError):
        return ""
    return str(error.response.get("Error", {}).get("Code", ""))


def status(error: Exception) -> int:
    """The HTTP status of an answer that is an error; 0 for what never was an answer."""
    if not isinstance(error, ClientError):
        return 0
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def is_unclear(error: Exception) -> bool:
    """Whether the server may have done what was asked although this is what came back."""
    if isinstance(error, ClientError):
        server_failed = status(error) >= 500 and status(error) != 501
        # NoSuchUpload: an upload in parts that was completed, and whose answer was lost.
        return server_failed or code(error) in ("RequestTimeout", "NoSuchUpload")
    # Also where the last attempt did not reach the server: one before it may have.
    return not isinstance(error, (*_NO_KEYS, boto.ParamValidationError))


def store_error(at: S3Address, key: str, error: Exception) -> StoreError:
    """The StoreError that says what `error`, met on `key` (or a prefix), means."""
    place = f"{at}/{key}" if key else str(at)
    if code(error) in MISSING:
        return MissingObject(f"{at}: no object {key}")
    return StoreError(f"{place}: {_remedy(at, error)}")


def _remedy(at: S3Address, error: Exception) -> str:
    if isinstance(error, ClientError):
        return _answered(at, error)
    if isinstance(error, _NO_KEYS):
        return (
            f"no usable credentials ({error}); set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
            "name a profile of ~/.aws by ?profile= or AWS_PROFILE"
        )
    if isinstance(error, boto.HTTPClientError | boto.ConnectionError):
        where = at.endpoint_url or "AWS"
        return (
            f"no answer from {where} ({error}); is the endpoint_url right and the server up? "
            f"{_AGAIN}"
        )
    return f"{error}; {_AGAIN}"


def _answered(at: S3Address, error: ClientError) -> str:
    name, said = code(error), _said(error)
    doing = error.operation_name
    if name == "NoSuchBucket":
        return f"there is no bucket {at.bucket} ({said}); create it, or correct the address"
    if name in _DENIED:
        return (
            f"{doing} is denied ({said}); the credentials need s3:ListBucket on the bucket and "
            "s3:GetObject, s3:PutObject, s3:DeleteObject below the prefix"
        )
    if name in _WRONG_REGION or (name == "400" and doing.startswith("Head")):
        return f"bucket {at.bucket} lies in {_region(error)}; name it by ?region= ({said})"
    if name in _UNKNOWN_KEYS:
        return f"the server does not accept the credentials ({said}); renew or correct them"
    if name == "RequestTimeTooSkewed":
        return f"the clock of this machine is wrong ({said}); set it"
    if status(error) == 501 or name in ("NotImplemented", "XNotImplemented"):
        return f"the server cannot do {doing} as a warehouse needs it ({said}); use another"
    if name in _FULL or status(error) == 507:
        return (
            f"the storage behind bucket {at.bucket} is full or its quota is used up ({said}); "
            f"nothing was committed. Free space or raise the quota, then {_AGAIN}"
        )
    if name in _BUSY:
        return f"the server asks to slow down, also after retries ({said}); {_AGAIN}"
    if status(error) >= 500:
        return f"the server failed, also after retries ({said}); {_AGAIN}"
    return f"{doing} failed ({said})"


def _said(error: ClientError) -> str:
    about = error.response.get("Error", {})
    return ": ".join(str(x) for x in (about.get("Code"), about.get("Message")) if x)


def _region(error: ClientError) -> str:
    answer: dict[str, Any] = dict(error.response)
    headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    named = headers.get("x-amz-bucket-region") or answer.get("Error", {}).get("Region")
    return f"region {named}" if named else "another region"
