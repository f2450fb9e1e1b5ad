"""vmlinux.py BZIMAGE OUT: unpacks the kernel inside a bzImage, which is an ELF
file that Xen can start without unpacking anything."""

import struct
import subprocess
import sys

with open(sys.argv[1], "rb") as file:
    image = file.read()
# Linux' Documentation/x86/boot.rst: setup_sects; payload_offset, payload_length.
setup_sectors = image[0x1F1] or 4
offset, length = struct.unpack_from("<II", image, 0x248)
payload = image[(setup_sectors + 1) * 512 + offset :][:length]
if payload.startswith(b"\xfd7zX"):
    command = ["xz", "-dc", "--single-stream"]
elif payload.startswith(b"\x28\xb5\x2f\xfd"):
    command = ["zstd", "-dcq"]
elif payload.startswith(b"\x02\x21\x4c\x18"):
    command = ["lz4", "-dcq"]
else:
    command = ["gzip", "-dcq"]
# After the compressed data comes its length, which these take for garbage; so
# not their status but the result tells.
unpacked = subprocess.run(command, input=payload, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
if not unpacked.startswith(b"\x7fELF"):
    sys.exit(f"no kernel could be unpacked from {sys.argv[1]} with {command[0]}")
with open(sys.argv[2], "wb") as file:
    file.write(unpacked)
