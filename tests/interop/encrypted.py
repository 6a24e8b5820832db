"""Reads and writes encrypted objects with the official SDKs.

usage: encrypted.py read|write oss2|v2 KEY PRIVATE.pem PUBLIC.pem

write: content from stdin. read: whole, to stdout, after a range was read and compared.
Where the bucket is, and how to get in, stands in OSS_TEST_*.
"""

import os
import sys

import alibabacloud_oss_v2 as oss
import oss2
from oss2.crypto import RsaProvider

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

    def read(self, key):
        return self.client.get_object(oss.GetObjectRequest(bucket=BUCKET, key=key)).body.content

    def range(self, key, first, last):
        request = oss.GetObjectRequest(bucket=BUCKET, key=key, range_header=f"bytes={first}-{last}")
        return self.client.get_object(request).body.content


def main(action, sdk, key, private, public):
    with open(private) as private, open(public) as public:
        driver = {"oss2": First, "v2": Second}[sdk](private.read(), public.read())
    if action == "write":
        driver.write(key, sys.stdin.buffer.read())
        return
    content = driver.read(key)
    if len(content) > 40:
        first, last = len(content) // 3, len(content) - 5
        assert driver.range(key, first, last) == content[first:last + 1], "a range differs"
    sys.stdout.buffer.write(content)


main(*sys.argv[1:])
