"""What zstd makes of a page of floats that is split by byte streams, with runs and without any: `docs/decisions/layout.md` has the table.

    .cache/venv/bin/python bench/zstd_pages.py
"""

import ctypes
import time

import numpy as np

ROWS = 128 << 10
PARAMETERS = {"level": 100, "targetLength": 106, "literalCompressionMode": 1002}
WAYS = {"runs": {"level": 1}, "none": {"level": 1, "targetLength": ROWS, "literalCompressionMode": 1}}


def pages(rng):
    yield "f32, uniform", rng.random(ROWS, dtype=np.float32)
    yield "f32, normal", rng.normal(size=ROWS).astype(np.float32)
    yield "f32, 70 % zeros", np.where(rng.random(ROWS) < 0.7, 0, rng.random(ROWS)).astype(np.float32)
    yield "f32, a random walk", np.cumsum(rng.normal(size=ROWS)).astype(np.float32)
    yield "f64, prices", np.round(np.exp(rng.normal(3, 1, ROWS)), 2)


def least(repeats, work):
    """What it gives, and the least seconds that it took."""
    took = []
    for _ in range(repeats):
        begin = time.perf_counter()
        result = work()
        took.append(time.perf_counter() - begin)
    return result, min(took)


class Zstd:
    def __init__(self):
        self.library = library = ctypes.CDLL("libzstd.so.1")
        size, pointer = ctypes.c_size_t, ctypes.c_void_p
        for make in (library.ZSTD_createCCtx, library.ZSTD_createDCtx):
            make.restype = pointer
        library.ZSTD_versionString.restype = ctypes.c_char_p
        library.ZSTD_CCtx_setParameter.argtypes = [pointer, ctypes.c_int, ctypes.c_int]
        for code in (library.ZSTD_compress2, library.ZSTD_decompressDCtx):
            code.argtypes, code.restype = [pointer, pointer, size, pointer, size], size

    def run(self, page, parameters):
        """Bits a value, and the least microseconds of compressing and decompressing."""
        compressor, decompressor = self.library.ZSTD_createCCtx(), self.library.ZSTD_createDCtx()
        for name, value in parameters.items():
            refused = self.library.ZSTD_CCtx_setParameter(compressor, PARAMETERS[name], value)
            assert not self.library.ZSTD_isError(ctypes.c_size_t(refused)), name
        packed, back = ctypes.create_string_buffer(len(page) + 4096), ctypes.create_string_buffer(len(page))
        length, pack_s = least(10, lambda: self.library.ZSTD_compress2(compressor, packed, len(packed), page, len(page)))
        _, unpack_s = least(40, lambda: self.library.ZSTD_decompressDCtx(decompressor, back, len(back), packed, length))
        assert back.raw == page
        return length * 8 / ROWS, pack_s * 1e6, unpack_s * 1e6


def main():
    zstd = Zstd()
    print("libzstd", zstd.library.ZSTD_versionString().decode())
    for name, values in pages(np.random.default_rng(1)):
        split = np.ascontiguousarray(values.view(np.uint8).reshape(ROWS, values.itemsize).T).tobytes()
        for way, parameters in WAYS.items():
            bits, pack, unpack = zstd.run(split, parameters)
            print(f"{name}: {way}: {bits:.1f} bits a value, {pack:.0f} us to compress, {unpack:.0f} us to decompress")


if __name__ == "__main__":
    main()
