"""Reads and writes encrypted objects with the official SDKs.

usage: encrypted.py read|write|parts oss2|v2 KEY PRIVATE.pem PUBLIC.pem

write: content from stdin. parts: the same, in parts. read: whole, to stdout, after a range was read and compared.
Where the bucket is, and how to get in, stands in OSS_TEST_*.
"""

import os
import sys

import alibabacloud_oss_v2 as oss
import oss2
from oss2.crypto import RsaProvider

PART = 128 * 1024

ENDPOINT, BUCKET = os.environ["OSS_TEST_ENDPOINT"], os.environ["OSS_TEST_BUCKET"]
ID, SECRET = os.environ["OSS_TEST_ACCESS_KEY_ID"], os.environ["OSS_TEST_ACCESS_KEY_SECRET"]


class First:
    """oss2, the first generation."""

    def __init__(self, private, public):
        provider = RsaProvider({"private_key": private, "public_key": public})
        auth = oss2.AuthV4(ID, SECRET)
        self.bucket = oss2.CryptoBucket(auth, ENDPOINT, BUCKET, provider, region="cn-hangzhou")

    def write(self, key, content):
        self.bucket.put_object(key, content)

    def parts(self, key, content):
        context = oss2.models.MultipartUploadCryptoContext(len(content), PART)
        upload = self.bucket.init_multipart_upload(key, upload_context=context).upload_id
        done = []
        for number, start in enumerate(range(0, len(content), PART), 1):
            part = content[start:start + PART]
            sent = self.bucket.upload_part(key, upload, number, part, upload_context=context)
            done.append(oss2.models.PartInfo(number, sent.etag))
        self.bucket.complete_multipart_upload(key, upload, done)

    def read(self, key):
        return self.bucket.get_object(key).read()

    def range(self, key, first, last):
        return self.bucket.get_object(key, byte_range=(first, last)).read()


class Second:
    """alibabacloud-oss-v2."""

    def __init__(self, private, public):
        config = oss.config.load_default()
        config.credentials_provider = oss.credentials.StaticCredentialsProvider(ID, SECRET)
        config.region = "cn-hangzhou"
        config.endpoint = ENDPOINT
        config.use_path_style = True
        cipher = oss.crypto.MasterRsaCipher(None, public, private)
        self.client = oss.EncryptionClient(oss.Client(config), cipher)

    def write(self, key, content):
        self.client.put_object(oss.PutObjectRequest(bucket=BUCKET, key=key, body=content))

    def parts(self, key, content):
        begun = self.client.initiate_multipart_upload(oss.InitiateMultipartUploadRequest(
            bucket=BUCKET, key=key, cse_part_size=PART, cse_data_size=len(content)))
        done = []
        for number, start in enumerate(range(0, len(content), PART), 1):
            sent = self.client.upload_part(oss.UploadPartRequest(
                bucket=BUCKET, key=key, upload_id=begun.upload_id, part_number=number,
                cse_multipart_context=begun.cse_multipart_context,
                body=content[start:start + PART]))
            done.append(oss.UploadPart(part_number=number, etag=sent.etag))
        self.client.complete_multipart_upload(oss.CompleteMultipartUploadRequest(
            bucket=BUCKET, key=key, upload_id=begun.upload_id,
            complete_multipart_upload=oss.CompleteMultipartUpload(parts=done)))

    def read(self, key):
        return self.client.get_object(oss.GetObjectRequest(bucket=BUCKET, key=key)).body.content

    def range(self, key, first, last):
        request = oss.GetObjectRequest(bucket=BUCKET, key=key, range_header=f"bytes={first}-{last}")
        return self.client.get_object(request).body.content


def main(action, sdk, key, private, public):
    with open(private) as private, open(public) as public:
        driver = {"oss2": First, "v2": Second}[sdk](private.read(), public.read())
    if action in ("write", "parts"):
        getattr(driver, action)(key, sys.stdin.buffer.read())
        return
    content = driver.read(key)
    if len(content) > 40:
        first, last = len(content) // 3, len(content) - 5
        assert driver.range(key, first, last) == content[first:last + 1], "a range differs"
    sys.stdout.buffer.write(content)


main(*sys.argv[1:])
