"""Runs both official SDKs against the server, as the reference for the OSS protocol.

usage: sdk.py ENDPOINT BUCKET ACCESS_KEY_ID ACCESS_KEY_SECRET
"""

import datetime
import hashlib
import io
import os
import socket
import sys
import time

import alibabacloud_oss_v2 as oss
import oss2

KIB = 1024

# BUCKET.localhost is this machine (RFC 6761), but not every C library resolves it.
_resolve = socket.getaddrinfo
socket.getaddrinfo = lambda host, *rest, **named: _resolve(
    "127.0.0.1" if str(host).endswith(".localhost") else host, *rest, **named)
ODD_KEYS = ["dir/a b+c%20&=?#.txt", "dir/文件/名", "dir/x~(y)!*'", "dir/a\u0001b", "dir/äö"]


def expect(code, status, call):
    """The call fails with this code and status, whichever SDK makes it."""
    try:
        call()
    except oss2.exceptions.OssError as error:
        got = (error.code, error.status)
    except oss.exceptions.OperationError as error:
        inner = error.unwrap()
        got = (inner.code, inner.status_code)
    else:
        raise AssertionError(f"expected {code}, but it succeeded")
    assert got == (code, status), f"expected {(code, status)}, got {got}"


def blob(length, seed=0):
    block = bytes((n * 7 + seed) % 251 for n in range(4096))
    return (block * (length // len(block) + 1))[:length]


class First:
    """oss2, the first generation."""

    def __init__(self, endpoint, bucket, key_id, secret, version):
        auth = {
            "v1": lambda: oss2.Auth(key_id, secret),
            "v4": lambda: oss2.AuthV4(key_id, secret),
        }[version]()
        self.bucket = oss2.Bucket(auth, endpoint, bucket, region="cn-hangzhou")
        self.service = oss2.Service(auth, endpoint, region="cn-hangzhou")
        self.auth = auth
        self.endpoint = endpoint
        self.wrong = oss2.Bucket(type(auth)(key_id, "wrong"), endpoint, bucket, region="cn-hangzhou")
        self.unknown = oss2.Bucket(type(auth)("unknown", secret), endpoint, bucket, region="cn-hangzhou")

    def objects(self):
        b = self.bucket
        content = blob(1000)
        put = b.put_object("dir/k", content, headers={"x-oss-meta-Mode": "33188", "Content-Type": "text/x-test"})
        assert put.etag == hashlib.md5(content).hexdigest().upper(), put.etag
        assert put.crc is not None and put.request_id
        got = b.get_object("dir/k")
        assert got.read() == content
        assert got.headers["x-oss-meta-mode"] == "33188" and got.headers["Content-Type"] == "text/x-test"
        assert got.server_crc == got.client_crc, (got.server_crc, got.client_crc)
        head = b.head_object("dir/k")
        assert (head.content_length, head.etag, head.object_type) == (1000, put.etag, "Normal")
        assert abs(head.last_modified - time.time()) < 60
        assert b.get_object_meta("dir/k").content_length == 1000
        assert b.object_exists("dir/k") and not b.object_exists("dir/nothing")
        for key in ODD_KEYS:
            b.put_object(key, key.encode())
            assert b.get_object(key).read() == key.encode()
        b.put_object("empty", b"")
        assert b.get_object("empty").read() == b""
        # Without a length: chunked.
        b.put_object("chunked", iter([blob(70000), blob(30000, 1)]))
        assert b.get_object("chunked").read() == blob(70000) + blob(30000, 1)
        large = blob(9_000_000, 3)
        b.put_object("large", io.BytesIO(large))
        assert b.get_object("large").read() == large

    def ranges(self):
        b = self.bucket
        content = blob(1000)
        b.put_object("k", content)
        for asked, wanted, status in [
            ((0, 499), content[:500], 206),
            ((500, None), content[500:], 206),
            ((None, 500), content[-500:], 206),
            ((500, 2000), content, 200),
            ((1000, 2000), content, 200),
        ]:
            got = b.get_object("k", byte_range=asked)
            assert (got.read(), got.status) == (wanted, status), asked
        standard = {"x-oss-range-behavior": "standard"}
        got = b.get_object("k", byte_range=(500, 2000), headers=standard)
        assert (got.read(), got.status, got.content_range) == (content[500:], 206, "bytes 500-999/1000")
        expect("InvalidRange", 416, lambda: b.get_object("k", byte_range=(1000, 2000), headers=standard))

    def copies(self):
        b, name = self.bucket, self.bucket.bucket_name
        source = "dir/a b+c%20&=?#.txt"
        put = b.put_object(source, b"abc", headers={"x-oss-meta-a": "1", "Content-Type": "text/plain"})
        copy = b.copy_object(name, source, "copy", headers={"x-oss-meta-a": "ignored"})
        head = b.head_object("copy")
        assert (head.headers["x-oss-meta-a"], head.content_type, head.etag) == ("1", "text/plain", copy.etag)
        b.copy_object(name, source, "copy", headers={"x-oss-metadata-directive": "REPLACE", "x-oss-meta-b": "2"})
        head = b.head_object("copy")
        assert head.headers["x-oss-meta-b"] == "2" and "x-oss-meta-a" not in head.headers
        b.update_object_meta(source, {"x-oss-meta-c": "3"})
        head = b.head_object(source)
        assert head.headers["x-oss-meta-c"] == "3" and "x-oss-meta-a" not in head.headers and head.etag == put.etag
        assert b.get_object("copy").read() == b"abc"
        expect("PreconditionFailed", 412, lambda: b.copy_object(
            name, source, "copy", headers={"x-oss-copy-source-if-match": '"' + "0" * 32 + '"'}))
        expect("NoSuchKey", 404, lambda: b.copy_object(name, "nothing", "copy"))
        expect("FileAlreadyExists", 409, lambda: b.copy_object(
            name, source, "copy", headers={"x-oss-forbid-overwrite": "true"}))

    def listings(self):
        b = self.bucket
        keys = sorted([f"list/{n:03}" for n in range(25)] + [f"list/sub{n}/x" for n in range(5)])
        for key in keys:
            b.put_object(key, b"x")
        for iterate in [oss2.ObjectIterator, oss2.ObjectIteratorV2]:
            for page in [1, 7, 100]:
                flat = [o.key for o in iterate(b, prefix="list/", max_keys=page)]
                assert flat == keys, (iterate, page, flat)
                folded = list(iterate(b, prefix="list/", delimiter="/", max_keys=page))
                prefixes = [o.key for o in folded if o.is_prefix()]
                assert prefixes == [f"list/sub{n}/" for n in range(5)], (iterate, page, prefixes)
                assert len(folded) == 30
        odd = [o.key for o in oss2.ObjectIteratorV2(b, prefix="dir/")]
        assert set(ODD_KEYS) <= set(odd), odd
        page = b.list_objects_v2(prefix="list/", start_after="list/023", max_keys=2)
        assert [o.key for o in page.object_list] == ["list/024", "list/sub0/x"] and page.is_truncated
        assert page.object_list[0].size == 1 and page.object_list[0].type == "Normal"
        page = b.list_objects_v2(prefix="list/")
        assert len(page.object_list) == 30
        for n in range(101):
            b.put_object(f"many/{n}", b"")
        assert len(b.list_objects_v2(prefix="many/").object_list) == 100, "100 keys unless asked for more"
        expect("InvalidArgument", 400, lambda: b.list_objects_v2(max_keys=1001))

    def multipart(self):
        b = self.bucket
        upload = b.init_multipart_upload("multi", headers={"x-oss-meta-m": "1"}).upload_id
        contents = [blob(100 * KIB, 1), blob(300 * KIB, 2), blob(5, 3)]
        parts = []
        for number, content in enumerate(contents, 1):
            part = b.upload_part("multi", upload, number, content)
            parts.append(oss2.models.PartInfo(number, part.etag, size=len(content), part_crc=part.crc))
        listed = list(oss2.PartIterator(b, "multi", upload, max_parts=2))
        assert [(p.part_number, p.size) for p in listed] == [(n + 1, len(c)) for n, c in enumerate(contents)]
        assert [u.key for u in oss2.MultipartUploadIterator(b, prefix="mul")] == ["multi"]
        assert not b.object_exists("multi")
        wrong = [oss2.models.PartInfo(1, "0" * 32)]
        expect("InvalidPart", 400, lambda: b.complete_multipart_upload("multi", upload, wrong))
        b.complete_multipart_upload("multi", upload, parts)
        got = b.get_object("multi")
        assert got.read() == b"".join(contents) and got.server_crc == got.client_crc
        head = b.head_object("multi")
        assert head.object_type == "Multipart" and head.headers["x-oss-meta-m"] == "1"
        expect("NoSuchUpload", 404, lambda: b.complete_multipart_upload("multi", upload, parts))
        # Copied parts.
        upload = b.init_multipart_upload("multi2").upload_id
        one = b.upload_part_copy(b.bucket_name, "multi", (0, 200 * KIB - 1), "multi2", upload, 1)
        two = b.upload_part("multi2", upload, 2, b"end")
        b.complete_multipart_upload("multi2", upload, [
            oss2.models.PartInfo(1, one.etag), oss2.models.PartInfo(2, two.etag)])
        assert b.get_object("multi2").read() == b"".join(contents)[:200 * KIB] + b"end"
        upload = b.init_multipart_upload("multi3").upload_id
        b.upload_part("multi3", upload, 1, b"x")
        b.abort_multipart_upload("multi3", upload)
        expect("NoSuchUpload", 404, lambda: b.abort_multipart_upload("multi3", upload))
        # Parts out of order and parts that are too small. The SDK would sort them.
        upload = b.init_multipart_upload("small").upload_id
        small = [b.upload_part("small", upload, n, b"x") for n in (1, 2)]
        expect("EntityTooSmall", 400, lambda: b.complete_multipart_upload("small", upload, [
            oss2.models.PartInfo(n + 1, p.etag) for n, p in enumerate(small)]))
        b.abort_multipart_upload("small", upload)
        assert list(oss2.MultipartUploadIterator(b)) == []
        # The SDK's own large-file machinery.
        path = os.path.join(os.environ["TEMPDIR"], "upload")
        with open(path, "wb") as file:
            file.write(blob(3 << 20, 5))
        oss2.resumable_upload(b, "resumable", path, multipart_threshold=1 << 20, part_size=1 << 20, num_threads=3,
                              store=oss2.ResumableStore(root=os.environ["TEMPDIR"]))
        assert b.get_object("resumable").read() == blob(3 << 20, 5)

    def deletions(self):
        b = self.bucket
        for key in ["del/1", "del/2", "del/<&>\"'", "del/文", "del/ space ", "stay"]:
            b.put_object(key, b"x")
        deleted = b.batch_delete_objects(["del/1", "del/<&>\"'", "del/文", "del/ space ", "del/nothing"])
        assert len(deleted.deleted_keys) == 5 and "del/文" in deleted.deleted_keys, deleted.deleted_keys
        assert [o.key for o in oss2.ObjectIteratorV2(b, prefix="del/")] == ["del/2"]
        assert b.delete_object("del/2").status == 204
        assert b.delete_object("del/2").status == 204

    def conditions(self):
        b = self.bucket
        etag = '"' + b.put_object("k", b"x").etag + '"'
        other = '"' + "0" * 32 + '"'
        b.get_object("k", headers={"If-Match": etag})
        b.get_object("k", headers={"If-Match": etag.strip('"')})
        expect("PreconditionFailed", 412, lambda: b.get_object("k", headers={"If-Match": other}))
        expect("PreconditionFailed", 412, lambda: b.head_object("k", headers={"If-Match": other}))
        for headers in [{"If-None-Match": etag}, {"If-Modified-Since": oss2.utils.http_date(time.time() + 9)}]:
            try:
                b.get_object("k", headers=headers)
                raise AssertionError("expected 304")
            except oss2.exceptions.NotModified:
                pass
        past = oss2.utils.http_date(time.time() - 1000)
        expect("PreconditionFailed", 412, lambda: b.get_object("k", headers={"If-Unmodified-Since": past}))
        expect("FileAlreadyExists", 409, lambda: b.put_object("k", b"y", headers={"x-oss-forbid-overwrite": "true"}))
        assert b.get_object("k").read() == b"x"
        expect("InvalidDigest", 400, lambda: b.put_object("k", b"y", headers={
            "Content-MD5": oss2.utils.content_md5(b"z")}))
        assert b.get_object("k").read() == b"x"

    def errors(self):
        b = self.bucket
        expect("NoSuchKey", 404, lambda: b.get_object("nothing"))
        expect("NoSuchKey", 404, lambda: b.head_object("nothing"))
        expect("SignatureDoesNotMatch", 403, lambda: self.wrong.get_object("k"))
        expect("SignatureDoesNotMatch", 403, lambda: self.wrong.put_object("k", b"intruder" * 100_000))
        expect("InvalidAccessKeyId", 403, lambda: self.unknown.get_object("k"))
        nowhere = oss2.Bucket(self.auth, self.endpoint, "no-such-bucket", region="cn-hangzhou")
        expect("NoSuchBucket", 404, lambda: nowhere.get_object("k"))
        expect("NoSuchBucket", 404, lambda: nowhere.put_object("k", b"x"))
        expect("InvalidObjectName", 400, lambda: b.put_object("x" * 1024, b""))
        expect("InvalidObjectName", 400, lambda: b.put_object("\\x", b""))
        expect("InvalidArgument", 400, lambda: b.put_object("k", b"", headers={"x-oss-meta-a": "x" * 8192}))
        expect("InvalidEncryptionRequest", 400, lambda: b.put_object("k", b"", headers={
            "x-oss-meta-client-side-encryption-key": "x"}))

    def buckets(self):
        b = self.bucket
        info = b.get_bucket_info()
        assert info.name == b.bucket_name and info.location == "oss-cn-hangzhou"
        assert b.get_bucket_location().location == "oss-cn-hangzhou"
        assert b.bucket_name in [x.name for x in oss2.BucketIterator(self.service)]
        new = oss2.Bucket(self.auth, self.endpoint, "made-by-sdk", region="cn-hangzhou")
        new.create_bucket()
        new.put_object("k", b"x")
        expect("BucketNotEmpty", 409, new.delete_bucket)
        b.copy_object  # across buckets:
        new.copy_object(b.bucket_name, "stay", "from-other")
        assert new.get_object("from-other").read() == b"x"
        new.batch_delete_objects(["k", "from-other"])
        new.delete_bucket()
        expect("NoSuchBucket", 404, lambda: new.get_object("k"))

    def presigned(self):
        import requests
        b = self.bucket
        b.put_object("signed url", b"x")
        url = b.sign_url("GET", "signed url", 60, slash_safe=True)
        assert requests.get(url, timeout=10).content == b"x"
        assert requests.get(url.replace("signed", "other"), timeout=10).status_code == 403
        assert requests.get(url.split("?")[0], timeout=10).status_code == 403


class Second:
    """alibabacloud-oss-v2."""

    def __init__(self, endpoint, bucket, key_id, secret, version, path_style=True):
        def client(key_id=key_id, secret=secret, **more):
            config = oss.config.load_default()
            config.credentials_provider = oss.credentials.StaticCredentialsProvider(key_id, secret)
            config.region = "cn-hangzhou"
            config.endpoint = endpoint
            config.signature_version = version
            config.use_path_style = path_style
            for name, value in more.items():
                setattr(config, name, value)
            return oss.Client(config)

        self.c = client()
        self.wrong = client(secret="wrong")
        self.hardened = client(additional_headers=["host", "range"])
        self.bucket = bucket

    def objects(self):
        c, bucket = self.c, self.bucket
        content = blob(100_000)
        put = c.put_object(oss.PutObjectRequest(bucket=bucket, key="2/k", body=content,
                                                metadata={"Mode": "33188"}, content_type="text/x-test"))
        assert put.status_code == 200 and put.etag.strip('"') == hashlib.md5(content).hexdigest().upper()
        got = c.get_object(oss.GetObjectRequest(bucket=bucket, key="2/k"))
        assert got.body.content == content and got.metadata["mode"] == "33188"
        assert (got.content_type, got.object_type, got.etag) == ("text/x-test", "Normal", put.etag)
        assert got.hash_crc64 == put.hash_crc64
        head = c.head_object(oss.HeadObjectRequest(bucket=bucket, key="2/k"))
        assert head.content_length == len(content) and head.metadata["mode"] == "33188"
        meta = c.get_object_meta(oss.GetObjectMetaRequest(bucket=bucket, key="2/k"))
        assert meta.content_length == len(content)
        assert c.is_object_exist(bucket, "2/k") and not c.is_object_exist(bucket, "2/nothing")
        for key in ODD_KEYS:
            c.put_object(oss.PutObjectRequest(bucket=bucket, key=key, body=key.encode()))
            got = c.get_object(oss.GetObjectRequest(bucket=bucket, key=key))
            assert got.body.content == key.encode()

    def ranges(self):
        c, bucket = self.c, self.bucket
        content = blob(1000)
        c.put_object(oss.PutObjectRequest(bucket=bucket, key="k", body=content))
        for client in [c, self.hardened]:
            got = client.get_object(oss.GetObjectRequest(bucket=bucket, key="k", range_header="bytes=500-2000",
                                                         range_behavior="standard"))
            assert (got.body.content, got.status_code) == (content[500:], 206)
            assert got.content_range == "bytes 500-999/1000"
        got = c.get_object(oss.GetObjectRequest(bucket=bucket, key="k", range_header="bytes=500-2000"))
        assert (got.body.content, got.status_code) == (content, 200)

    def copies(self):
        c, bucket = self.c, self.bucket
        source = "dir/a b+c%20&=?#.txt"
        put = c.put_object(oss.PutObjectRequest(bucket=bucket, key=source, body=b"abc", metadata={"a": "1"}))
        c.copy_object(oss.CopyObjectRequest(bucket=bucket, key="2/copy", source_bucket=bucket, source_key=source,
                                            if_match=put.etag))
        copied = c.head_object(oss.HeadObjectRequest(bucket=bucket, key="2/copy"))
        assert copied.metadata == {"a": "1"} and copied.etag == put.etag
        c.copy_object(oss.CopyObjectRequest(bucket=bucket, key="2/copy", source_bucket=bucket, source_key=source,
                                            metadata_directive="REPLACE", metadata={"b": "2"}))
        copied = c.head_object(oss.HeadObjectRequest(bucket=bucket, key="2/copy"))
        assert copied.metadata == {"b": "2"}
        expect("PreconditionFailed", 412, lambda: c.copy_object(oss.CopyObjectRequest(
            bucket=bucket, key="2/copy", source_bucket=bucket, source_key=source, if_match='"' + "0" * 32 + '"')))

    def listings(self):
        c, bucket = self.c, self.bucket
        keys = sorted([f"2list/{n:03}" for n in range(25)] + [f"2list/sub{n}/x" for n in range(5)])
        for key in keys:
            c.put_object(oss.PutObjectRequest(bucket=bucket, key=key, body=b"x"))
        for page in [1, 7, 1000]:
            flat, folded, prefixes = [], [], []
            for p in c.list_objects_v2_paginator(limit=page).iter_page(
                    oss.ListObjectsV2Request(bucket=bucket, prefix="2list/", fetch_owner=True)):
                flat += [o.key for o in p.contents or []]
                assert all(o.owner.id for o in p.contents or [])
                assert p.key_count == len(p.contents or [])
            assert flat == keys, (page, flat)
            for p in c.list_objects_v2_paginator(limit=page).iter_page(
                    oss.ListObjectsV2Request(bucket=bucket, prefix="2list/", delimiter="/")):
                folded += [o.key for o in p.contents or []]
                prefixes += [x.prefix for x in p.common_prefixes or []]
            assert folded == keys[:25] and prefixes == [f"2list/sub{n}/" for n in range(5)]
        odd = [o.key for p in c.list_objects_v2_paginator().iter_page(
            oss.ListObjectsV2Request(bucket=bucket, prefix="dir/")) for o in p.contents]
        assert set(ODD_KEYS) <= set(odd), odd
        page = c.list_objects_v2(oss.ListObjectsV2Request(bucket=bucket, prefix="2list/", start_after="2list/024"))
        assert page.contents[0].key == "2list/sub0/x" and page.contents[0].last_modified.tzinfo is not None
        v1 = [o.key for p in c.list_objects_paginator(limit=4).iter_page(
            oss.ListObjectsRequest(bucket=bucket, prefix="2list/")) for o in p.contents]
        assert v1 == keys

    def multipart(self):
        c, bucket = self.c, self.bucket
        begun = c.initiate_multipart_upload(oss.InitiateMultipartUploadRequest(
            bucket=bucket, key="2/multi +", metadata={"m": "1"}))
        upload, key = begun.upload_id, "2/multi +"
        assert begun.key == key
        contents = [blob(100 * KIB, 1), blob(300 * KIB, 2)]
        parts = []
        for number, content in enumerate(contents, 1):
            part = c.upload_part(oss.UploadPartRequest(bucket=bucket, key=key, part_number=number, upload_id=upload,
                                                       body=content))
            parts.append(oss.UploadPart(part_number=number, etag=part.etag))
        copied = c.upload_part_copy(oss.UploadPartCopyRequest(
            bucket=bucket, key=key, part_number=3, upload_id=upload, source_bucket=bucket, source_key="2/k",
            source_range="bytes=0-9"))
        parts.append(oss.UploadPart(part_number=3, etag=copied.etag))
        listed = c.list_parts(oss.ListPartsRequest(bucket=bucket, key=key, upload_id=upload))
        assert [p.part_number for p in listed.parts] == [1, 2, 3] and listed.parts[0].hash_crc64
        uploads = c.list_multipart_uploads(oss.ListMultipartUploadsRequest(bucket=bucket))
        assert [u.key for u in uploads.uploads] == [key]
        wrong = list(reversed(parts))
        expect("InvalidPartOrder", 400, lambda: c.complete_multipart_upload(oss.CompleteMultipartUploadRequest(
            bucket=bucket, key=key, upload_id=upload,
            complete_multipart_upload=oss.CompleteMultipartUpload(parts=wrong))))
        done = c.complete_multipart_upload(oss.CompleteMultipartUploadRequest(
            bucket=bucket, key=key, upload_id=upload,
            complete_multipart_upload=oss.CompleteMultipartUpload(parts=parts)))
        assert done.key == key and done.hash_crc64
        got = c.get_object(oss.GetObjectRequest(bucket=bucket, key=key))
        assert got.body.content == b"".join(contents) + blob(100_000)[:10] and got.object_type == "Multipart"
        begun = c.initiate_multipart_upload(oss.InitiateMultipartUploadRequest(bucket=bucket, key=key))
        c.upload_part(oss.UploadPartRequest(bucket=bucket, key=key, part_number=1, upload_id=begun.upload_id, body=b"all"))
        c.complete_multipart_upload(oss.CompleteMultipartUploadRequest(
            bucket=bucket, key=key, upload_id=begun.upload_id, complete_all="yes"))
        assert c.get_object(oss.GetObjectRequest(bucket=bucket, key=key)).body.content == b"all"
        # The SDK's own uploader and downloader.
        uploaded = c.uploader(part_size=200 * KIB, parallel_num=3).upload_from(
            oss.PutObjectRequest(bucket=bucket, key="2/uploader"), io.BytesIO(blob(2 << 20, 9)))
        assert uploaded.status_code == 200
        path = os.path.join(os.environ["TEMPDIR"], "download")
        c.downloader(part_size=200 * KIB, parallel_num=3).download_file(
            oss.GetObjectRequest(bucket=bucket, key="2/uploader"), path)
        with open(path, "rb") as file:
            assert file.read() == blob(2 << 20, 9)

    def deletions(self):
        c, bucket = self.c, self.bucket
        keys = ["2del/1", "2del/<&>\"'", "2del/文"]
        for key in keys:
            c.put_object(oss.PutObjectRequest(bucket=bucket, key=key, body=b"x"))
        done = c.delete_multiple_objects(oss.DeleteMultipleObjectsRequest(
            bucket=bucket, encoding_type="url", objects=[oss.DeleteObject(key=key) for key in keys]))
        assert [d.key for d in done.deleted_objects] == keys, done.deleted_objects
        assert not c.is_object_exist(bucket, keys[2])
        c.put_object(oss.PutObjectRequest(bucket=bucket, key="2del/q", body=b"x"))
        c.delete_multiple_objects(oss.DeleteMultipleObjectsRequest(
            bucket=bucket, quiet=True, objects=[oss.DeleteObject(key="2del/q")]))
        assert c.delete_object(oss.DeleteObjectRequest(bucket=bucket, key="2del/q")).status_code == 204

    def conditions(self):
        c, bucket = self.c, self.bucket
        put = c.put_object(oss.PutObjectRequest(bucket=bucket, key="k", body=b"x"))
        get = lambda **more: c.get_object(oss.GetObjectRequest(bucket=bucket, key="k", **more))
        assert get(if_match=put.etag).body.content == b"x"
        expect("PreconditionFailed", 412, lambda: get(if_match='"' + "0" * 32 + '"'))
        try:
            get(if_none_match=put.etag)
            raise AssertionError("expected 304")
        except oss.exceptions.OperationError as error:
            assert error.unwrap().status_code == 304
        expect("FileAlreadyExists", 409, lambda: c.put_object(oss.PutObjectRequest(
            bucket=bucket, key="k", body=b"y", forbid_overwrite=True)))

    def errors(self):
        c, bucket = self.c, self.bucket
        expect("NoSuchKey", 404, lambda: c.get_object(oss.GetObjectRequest(bucket=bucket, key="nothing")))
        expect("NoSuchKey", 404, lambda: c.head_object(oss.HeadObjectRequest(bucket=bucket, key="nothing")))
        expect("SignatureDoesNotMatch", 403, lambda: self.wrong.get_object(oss.GetObjectRequest(bucket=bucket, key="k")))
        expect("NoSuchBucket", 404, lambda: c.get_object(oss.GetObjectRequest(bucket="no-such-bucket", key="k")))

    def buckets(self):
        info = self.c.get_bucket_info(oss.GetBucketInfoRequest(bucket=self.bucket)).bucket_info
        assert info.name == self.bucket and info.location == "oss-cn-hangzhou"
        location = self.c.get_bucket_location(oss.GetBucketLocationRequest(bucket=self.bucket))
        assert location.location == "oss-cn-hangzhou"

    def presigned(self):
        import requests
        self.c.put_object(oss.PutObjectRequest(bucket=self.bucket, key="k", body=b"x"))
        signed = self.c.presign(oss.GetObjectRequest(bucket=self.bucket, key="k"),
                                expires=datetime.timedelta(minutes=1))
        assert requests.get(signed.url, headers=signed.signed_headers, timeout=10).content == b"x"


def main():
    endpoint, bucket, key_id, secret = sys.argv[1:]
    port = endpoint.rsplit(":", 1)[1]
    drivers = [
        ("oss2 v1", First(endpoint, bucket, key_id, secret, "v1")),
        ("oss2 v4", First(endpoint, bucket, key_id, secret, "v4")),
        ("alibabacloud-oss-v2 v4", Second(endpoint, bucket, key_id, secret, "v4")),
        ("alibabacloud-oss-v2 v1", Second(endpoint, bucket, key_id, secret, "v1")),
        ("alibabacloud-oss-v2 v4 virtual-hosted",
         Second(f"http://localhost:{port}", bucket, key_id, secret, "v4", path_style=False)),
    ]
    sweeper = drivers[0][1].bucket
    for name, driver in drivers:
        for old in list(oss2.ObjectIteratorV2(sweeper)):
            sweeper.delete_object(old.key)
        for step in ["objects", "ranges", "copies", "listings", "multipart", "deletions", "conditions", "errors",
                     "buckets", "presigned"]:
            print(f"{name}: {step}", flush=True)
            getattr(driver, step)()


if __name__ == "__main__":
    main()
