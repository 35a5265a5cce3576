"""A stand-in for Amazon's store on this machine: it verifies every signature itself (SigV4), lists page by page, fails.

Requests without a signature reach public buckets alone. Refusals repeat who asked, as the real one's do.
"""

from __future__ import annotations

import hashlib
import hmac
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl, quote, unquote, urlsplit
from xml.sax.saxutils import escape

from .store import Handler as GoogleHandler
from .store import Store, send

KEY, SECRET, TOKEN = "AKIACELLMILLEXAMPLE1", "aVerySecretAccessKey/0123456789abcdefghi", "aVerySecretSessionToken=="


def _sign(secret: str, scope: list[str], text: str) -> str:
    key = f"AWS4{secret}".encode()
    for word in scope:
        key = hmac.new(key, word.encode(), hashlib.sha256).digest()
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


class Handler(GoogleHandler):
    server: S3

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        bucket, _, key = unquote(url.path).lstrip("/").partition("/")
        asked = dict(parse_qsl(url.query, keep_blank_values=True))
        self.server.seen.append((self.path, self.headers.get("Range")))
        refused = self.refusal(bucket, url.path, url.query)
        if refused is not None:
            return self.refuse(403, refused)
        with self.server.lock:
            faults = self.server.faults[f"{bucket}/{key}"]
            fault = faults.pop(0) if faults else None
        if fault is not None and not key:
            return fault(self, b"")
        if asked.get("list-type") == "2":
            return self.listing(bucket, asked)
        if f"{bucket}/{key}" not in self.server.objects:
            return self.refuse(404, "NoSuchKey")
        return (fault or send)(self, self.server.objects[f"{bucket}/{key}"])

    def do_HEAD(self) -> None:
        self.do_GET()

    def refusal(self, bucket: str, path: str, query: str) -> str | None:
        """Why a request is refused, verified as Amazon documents it; None: it is not."""
        pairs = parse_qsl(query, keep_blank_values=True)
        asked, header = dict(pairs), self.headers.get("Authorization", "")
        if "X-Amz-Signature" in asked:
            said = {"Credential": asked["X-Amz-Credential"], "SignedHeaders": asked["X-Amz-SignedHeaders"]}
            signature, time, payload = asked["X-Amz-Signature"], asked["X-Amz-Date"], "UNSIGNED-PAYLOAD"
            token, valid = asked.get("X-Amz-Security-Token"), timedelta(seconds=int(asked["X-Amz-Expires"]))
            pairs = [pair for pair in pairs if pair[0] != "X-Amz-Signature"]
        elif header.startswith("AWS4-HMAC-SHA256 "):
            words = [w.strip().partition("=") for w in header.removeprefix("AWS4-HMAC-SHA256 ").split(",")]
            said = {name: value for name, _, value in words}
            signature, time = said["Signature"], self.headers["x-amz-date"]
            payload, token = self.headers["x-amz-content-sha256"], self.headers.get("x-amz-security-token")
            valid = timedelta(minutes=15)
        else:
            return None if bucket in self.server.public else "AccessDenied"
        who, *scope = said["Credential"].split("/")
        if who != KEY:
            return "InvalidAccessKeyId"
        if scope[1] != self.server.region:
            return "AuthorizationHeaderMalformed"
        if token != self.server.token:
            return "InvalidToken"
        if not timedelta(0) <= datetime.now(UTC) - datetime.strptime(f"{time}+0000", "%Y%m%dT%H%M%SZ%z") <= valid:
            return "RequestTimeTooSkewed"
        names = said["SignedHeaders"].split(";")
        canonical = "\n".join(
            [
                self.command,
                quote(unquote(path), safe="/-_.~"),
                "&".join(
                    f"{k}={v}" for k, v in sorted((quote(k, safe="-_.~"), quote(v, safe="-_.~")) for k, v in pairs)
                ),
                *(f"{name}:{' '.join((self.headers.get(name) or '').split())}" for name in names),
                "",
                said["SignedHeaders"],
                payload,
            ]
        )
        text = "\n".join(["AWS4-HMAC-SHA256", time, "/".join(scope), hashlib.sha256(canonical.encode()).hexdigest()])
        return None if hmac.compare_digest(_sign(SECRET, scope, text), signature) else "SignatureDoesNotMatch"

    def listing(self, bucket: str, asked: dict[str, str]) -> None:
        prefix, cut, after = asked.get("prefix", ""), asked.get("delimiter"), asked.get("continuation-token", "")
        entries: dict[str, str] = {}
        for name in sorted(
            n.removeprefix(f"{bucket}/") for n in self.server.objects if n.startswith(f"{bucket}/{prefix}")
        ):
            rest = name.removeprefix(prefix)
            if cut and cut in rest:
                folder = prefix + rest.partition(cut)[0] + cut
                entries[folder] = f"<CommonPrefixes><Prefix>{escape(folder)}</Prefix></CommonPrefixes>"
                continue
            content = self.server.objects[f"{bucket}/{name}"]
            entries[name] = (
                f"<Contents><Key>{escape(name)}</Key><LastModified>2026-01-12T00:00:00.000Z</LastModified>"
                f"<ETag>&quot;{hashlib.md5(content).hexdigest()}&quot;</ETag><Size>{len(content)}</Size></Contents>"
            )
        left = [name for name in sorted(entries) if name > after]
        page, more = left[: self.server.page], len(left) > self.server.page
        body = f"<Name>{bucket}</Name><KeyCount>{len(page)}</KeyCount><IsTruncated>{str(more).lower()}</IsTruncated>"
        body += f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if more else ""
        body += "".join(entries[name] for name in page)
        self.xml(200, f'<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{body}</ListBucketResult>')

    def refuse(self, code: int, name: str) -> None:
        who = f"{self.headers.get('Authorization')} {self.path} {self.headers.get('x-amz-security-token')}"
        self.xml(
            code, f"<Error><Code>{name}</Code><Message>no</Message><StringToSign>{escape(who)}</StringToSign></Error>"
        )

    def xml(self, code: int, text: str) -> None:
        self.answer(code, f'<?xml version="1.0"?>{text}'.encode(), Content_Type="application/xml")


class S3(Store):
    """Buckets and their objects by ``bucket/name``; a fault of ``bucket/`` meets its listing."""

    def __init__(self) -> None:
        super().__init__(Handler)
        self.public: set[str] = set()
        self.region, self.token, self.page = "eu-central-1", None, 3
