"""The order of an epoch, computed from its description in `offline-store/src/batches/order.rs` alone: no line is shared with the server."""

U32, U64 = 2**32 - 1, 2**64 - 1
IV = [0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19]
WORDS = [2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8]
MIXED = [(0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15), (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14)]
START, END, ROOT = 1, 2, 8


def turned(x, bits):
    return (x >> bits | x << (32 - bits)) & U32


def compress(chaining, block, counter, flags):
    """BLAKE3's compression, from its specification."""
    words = [int.from_bytes(block.ljust(64, b"\0")[i : i + 4], "little") for i in range(0, 64, 4)]
    v = chaining + IV[:4] + [counter & U32, counter >> 32, len(block), flags]
    for _ in range(7):
        for i, (a, b, c, d) in enumerate(MIXED):
            for word, (left, right) in zip(words[2 * i : 2 * i + 2], ((16, 12), (8, 7))):
                v[a] = (v[a] + v[b] + word) & U32
                v[d] = turned(v[d] ^ v[a], left)
                v[c] = (v[c] + v[d]) & U32
                v[b] = turned(v[b] ^ v[c], right)
        words = [words[i] for i in WORDS]
    return [v[i] ^ v[i + 8] for i in range(8)] + [v[i + 8] ^ chaining[i] for i in range(8)]


def blake3(data, length):
    """BLAKE3 of at most 1,024 bytes, with an output of any length."""
    *blocks, last = [data[i : i + 64] for i in range(0, len(data), 64)] or [b""]
    chaining = IV
    for i, block in enumerate(blocks):
        chaining = compress(chaining, block, 0, 0 if i else START)[:8]
    flags = END | ROOT | (0 if blocks else START)
    output = b"".join(word.to_bytes(4, "little") for n in range(-(-length // 64)) for word in compress(chaining, last, n, flags))
    return output[:length]


def mix(z):
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & U64
    z = (z ^ z >> 27) * 0x94D049BB133111EB & U64
    return z ^ z >> 31


def order(content_digest, split, rows, seed, epoch):
    """The rows of an epoch, in its order."""
    name = split.encode()
    material = b"anabranch shuffle\x01" + bytes.fromhex(content_digest) + len(name).to_bytes(4, "big") + name
    output = blake3(material + seed.to_bytes(8, "big") + epoch.to_bytes(8, "big"), 128)
    keys = [int.from_bytes(output[i : i + 8], "big") for i in range(0, 128, 8)]
    bits = (rows - 1).bit_length()
    low = bits - bits // 2

    def rounds(x):
        h, l = x >> low, x & (1 << low) - 1
        for i, key in enumerate(keys):
            if i % 2:
                h ^= mix(key ^ l) & (1 << bits // 2) - 1
            else:
                l ^= mix(key ^ h) & (1 << low) - 1
        return h << low | l

    def row(position):
        x = rounds(position)
        while x >= rows:
            x = rounds(x)
        return x

    return [row(position) for position in range(rows)]
