"""Git: branches and commits of one file over many files, by plumbing commands, without a work tree; objects and refs are synced."""

import json
import random
import subprocess
import time

from versions import arguments, key, median_ms, tree_bytes, values

args = arguments()
files = min(args.files, args.keys)
run = ["git", "-C", str(args.folder), "-c", "core.fsync=all", "-c", "core.fsyncMethod=fsync", "-c", "user.name=bench", "-c", "user.email=bench@localhost"]


def git(*words, stdin=None):
    return subprocess.run([*run, *words], input=stdin, check=True, capture_output=True).stdout.decode().strip()


subprocess.run(["git", "init", "-q", "--bare", "-b", "main", str(args.folder)], check=True)
source = values(args)


def path(number):
    """A thousand files in each folder: Git rewrites the folders of what changes."""
    return f"{number // 1000:06}/{key(number)}"


start = time.perf_counter()
feed = subprocess.Popen([*run, "fast-import", "--quiet"], stdin=subprocess.PIPE)
feed.stdin.write(b"commit refs/heads/main\ncommitter bench <bench@localhost> 1767225600 +0000\ndata 4\nload\n")
for number in range(files):
    value = next(source)
    feed.stdin.write(f"M 100644 inline {path(number)}\ndata {len(value)}\n".encode() + value + b"\n")
feed.stdin.close()
assert feed.wait() == 0
load = time.perf_counter() - start
git("read-tree", "main")
size = tree_bytes(args.folder)
rng = random.Random(args.seed + 1)


def commit():
    blob = subprocess.run([*run, "hash-object", "-w", "--stdin"], input=next(source), check=True, capture_output=True).stdout.decode().strip()
    git("update-index", "--add", "--cacheinfo", f"100644,{blob},{path(rng.randrange(files))}")
    tree = git("write-tree")
    made = git("commit-tree", tree, "-p", "main", "-m", "put")
    git("update-ref", "refs/heads/main", made)


before = tree_bytes(args.folder)
small = median_ms(commit for _ in range(50))
written = (tree_bytes(args.folder) - before) / 50
head = git("rev-parse", "main")
single = median_ms((lambda: git("update-ref", f"refs/heads/single/{time.perf_counter_ns()}", head)) for _ in range(50))
count = 5000
start = time.perf_counter()
git("update-ref", "--stdin", stdin="".join(f"create refs/heads/experiment/{number:06} {head}\n" for number in range(count)).encode())
batch = count / (time.perf_counter() - start)
diff = median_ms((lambda: git("diff-tree", "-r", "--name-only", "main~10", "main")) for _ in range(9))
figures = {
    "files": files,
    "load_keys_per_s": files / load,
    "bytes_per_key": size / files,
    "commit_1_key_p50_ms": small,
    "commit_1_key_bytes_written": written,
    "branch_create_p50_ms": single,
    "branch_create_per_s_one_transaction": batch,
    "diff_10_keys_ms": diff,
}
print(json.dumps(figures))
