"""A process that takes one download into a data directory, step by step as `Sync` does; a fault point may end it.

python -m tests.edge.store_process DIRECTORY SNAPSHOT MANIFEST MESSAGES KEY_FILE
"""

import sys
from pathlib import Path

from checker import keys as key_files
from edge import journal
from edge.snapshot_store import SnapshotStore
from proto.checker.v1 import filter_pb2 as pb

directory, snapshot, manifest, messages, key_file = map(Path, sys.argv[1:])
store = SnapshotStore(directory, key_files.load_edge(key_file))
assert store.lead()
loaded = store.load()
in_use = loaded.snapshot.header if loaded else None
download = store.resume()
if download is None:
    download = store.begin(store.offer(pb.GetManifestResponse.FromString(manifest.read_bytes())), in_use)
raw = snapshot.read_bytes()
while download.offset < len(raw):
    download.write(raw[download.offset : download.offset + 65536])
installed = store.install(download, in_use)
sent = messages.read_bytes().split(b"\0\0\0\0\0\0\0\0split")
pages = journal.pages_after(loaded.pages, installed.position.entry) if loaded else []
store.log.begin(installed.header.centre_id, pages, sent[0])
for message in sent[1:]:
    store.log.append(message)
store.close()
