"""The Python example that defines the encryption scheme, ported to Python 3 with pycryptodome and oss2.

usage: seed.py write NAME PUBLIC_KEY_PEM < content
       seed.py read NAME PRIVATE_KEY_PEM > content

Takes the bucket from OSS_TEST_ENDPOINT, OSS_TEST_BUCKET, OSS_TEST_ACCESS_KEY_ID and OSS_TEST_ACCESS_KEY_SECRET.
"""

import base64
import os
import random
import sys

import oss2
from Crypto import Random
from Crypto.Cipher import AES, PKCS1_OAEP
from Crypto.PublicKey import RSA
from Crypto.Util import Counter

# aes 256, key always is 32 bytes
_AES_256_KEY_SIZE = 32
_AES_CTR_COUNTER_BITS_LEN = 8 * 16


class AESCipher:
    def __init__(self, key=None, start=None):
        self.key = key
        self.start = start
        if not self.key:
            self.key = Random.new().read(_AES_256_KEY_SIZE)
        if not self.start:
            self.start = random.randint(1, 10)
        ctr = Counter.new(_AES_CTR_COUNTER_BITS_LEN, initial_value=self.start, allow_wraparound=True)
        self.cipher = AES.new(self.key, AES.MODE_CTR, counter=ctr)

    def encrypt(self, raw):
        return self.cipher.encrypt(raw)

    def decrypt(self, enc):
        return self.cipher.decrypt(enc)


def bucket():
    names = ["ACCESS_KEY_ID", "ACCESS_KEY_SECRET", "ENDPOINT", "BUCKET"]
    key_id, secret, endpoint, name = (os.environ["OSS_TEST_" + name] for name in names)
    return oss2.Bucket(oss2.Auth(key_id, secret), endpoint, name)


def write_object(bucket, name, content, public_key_pem):
    """Encrypts the content under its own key and uploads it."""
    encrypt_obj = PKCS1_OAEP.new(RSA.import_key(public_key_pem))
    encrypt_cipher = AESCipher()
    headers = {
        "x-oss-meta-x-oss-key": base64.b64encode(encrypt_obj.encrypt(encrypt_cipher.key)),
        "x-oss-meta-x-oss-start": base64.b64encode(encrypt_obj.encrypt(str(encrypt_cipher.start).encode())),
    }
    result = bucket.put_object(name, encrypt_cipher.encrypt(content), headers)
    assert result.status // 100 == 2, result.status


def read_object(bucket, name, private_key_pem):
    """Downloads the object and returns its plaintext."""
    decrypt_obj = PKCS1_OAEP.new(RSA.import_key(private_key_pem))
    result = bucket.get_object(name)
    assert result.status // 100 == 2, result.status
    encrypted = result.read()
    key = decrypt_obj.decrypt(base64.b64decode(result.headers.get("x-oss-meta-x-oss-key", "")))
    start = int(decrypt_obj.decrypt(base64.b64decode(result.headers.get("x-oss-meta-x-oss-start", ""))))
    return AESCipher(key, start).decrypt(encrypted)


def main():
    action, name, key_path = sys.argv[1:]
    with open(key_path, encoding="ascii") as file:
        pem = file.read()
    if action == "write":
        write_object(bucket(), name, sys.stdin.buffer.read(), pem)
    elif action == "read":
        sys.stdout.buffer.write(read_object(bucket(), name, pem))
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
