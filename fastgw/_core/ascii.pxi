# Bytes as ASCII: compares without case, decimal digits in and out.
#
# Leaves without Python objects; every other part calls them. They never allocate.

cdef inline bint is_same_text(const char* text, const char* lower, Py_ssize_t size) noexcept nogil:
    """Whether `text` equals the lower-case ASCII `lower`, without regard to case."""
    cdef Py_ssize_t i
    cdef unsigned char c
    for i in range(size):
        c = <unsigned char>text[i]
        if 65 <= c <= 90:
            c |= 0x20
        if c != <unsigned char>lower[i]:
            return False
    return True


cdef inline bint is_subject_token_byte(unsigned char c) noexcept nogil:
    """Printable ASCII without the broker's separators and wildcards. SOURCE: NATS ADR-6, `term`."""
    return 33 <= c <= 126 and c != 42 and c != 46 and c != 62


cdef inline int decimal_size(uint64_t value) noexcept nogil:
    cdef int digits = 1
    while value >= 10000:
        value //= 10000
        digits += 4
    return digits + (value >= 10) + (value >= 100) + (value >= 1000)


cdef inline char* write_decimal(char* at, uint64_t value) noexcept nogil:
    """Write `value` at `at`, which has room for 20 bytes. Returns the byte behind the last digit."""
    cdef char* end = at + decimal_size(value)
    cdef char* p = end
    cdef const char* pair
    while value >= 10:
        p -= 2
        pair = &FASTGW_PAIRS[2 * (value % 100)]
        p[0] = pair[0]
        p[1] = pair[1]
        value //= 100
    if p > at:
        at[0] = <char>(48 + value)
    return end


cdef inline int64_t parse_decimal(const char* text, Py_ssize_t size) noexcept nogil:
    """The number that `text` spells, or -1 when it is not 1 to 18 decimal digits."""
    cdef int64_t value = 0
    cdef Py_ssize_t i
    if size < 1 or size > 18:
        return -1
    for i in range(size):
        if not 48 <= <unsigned char>text[i] <= 57:
            return -1
        value = value * 10 + (<unsigned char>text[i] - 48)
    return value


cdef extern from *:
    """
    #ifdef __SSE2__
    #include <emmintrin.h>
    #endif
    /* Whether CR, LF or NUL stands in the text, sixteen or eight bytes at a time. */
    static inline int fastgw_has_control(const char *p, Py_ssize_t n) {
        unsigned long long w, r, l, seen = 0;
    #ifdef __SSE2__
        __m128i v, found = _mm_setzero_si128();
        if (n >= 16) {
            const char *last = p + n - 16;
            for (;;) {
                v = _mm_loadu_si128((const __m128i *)p);
                found = _mm_or_si128(found, _mm_cmpeq_epi8(v, _mm_setzero_si128()));
                found = _mm_or_si128(found, _mm_cmpeq_epi8(v, _mm_set1_epi8(10)));
                found = _mm_or_si128(found, _mm_cmpeq_epi8(v, _mm_set1_epi8(13)));
                if (p == last) return _mm_movemask_epi8(found) != 0;
                p = p + 16 > last ? last : p + 16;
            }
        }
    #endif
        while (n >= 8) {
            __builtin_memcpy(&w, p, 8);
            r = w ^ 0x0d0d0d0d0d0d0d0dULL;
            l = w ^ 0x0a0a0a0a0a0a0a0aULL;
            seen |= ((w - 0x0101010101010101ULL) & ~w) | ((r - 0x0101010101010101ULL) & ~r)
                | ((l - 0x0101010101010101ULL) & ~l);
            p += 8; n -= 8;
        }
        for (; n > 0; n--, p++) if (*p == 0 || *p == 10 || *p == 13) return 1;
        return (seen & 0x8080808080808080ULL) != 0;
    }
    /* Two digits at a time: 00, 01, … 99. */
    static const char FASTGW_PAIRS[] =
        "00010203040506070809101112131415161718192021222324"
        "25262728293031323334353637383940414243444546474849"
        "50515253545556575859606162636465666768697071727374"
        "75767778798081828384858687888990919293949596979899";
    /* What may stand in a Host: unreserved and sub-delims of a reg-name, and digits. */
    static const unsigned char FASTGW_HOST[256] = {
        ['0']=1,['1']=1,['2']=1,['3']=1,['4']=1,['5']=1,['6']=1,['7']=1,['8']=1,['9']=1,
        ['A']=1,['B']=1,['C']=1,['D']=1,['E']=1,['F']=1,['G']=1,['H']=1,['I']=1,['J']=1,['K']=1,
        ['L']=1,['M']=1,['N']=1,['O']=1,['P']=1,['Q']=1,['R']=1,['S']=1,['T']=1,['U']=1,['V']=1,
        ['W']=1,['X']=1,['Y']=1,['Z']=1,
        ['a']=1,['b']=1,['c']=1,['d']=1,['e']=1,['f']=1,['g']=1,['h']=1,['i']=1,['j']=1,['k']=1,
        ['l']=1,['m']=1,['n']=1,['o']=1,['p']=1,['q']=1,['r']=1,['s']=1,['t']=1,['u']=1,['v']=1,
        ['w']=1,['x']=1,['y']=1,['z']=1,
        ['-']=1,['.']=1,['_']=1,['~']=1,['!']=1,['$']=1,['&']=1,[39]=1,['(']=1,[')']=1,['*']=1,
        ['+']=1,[',']=1,[';']=1,['=']=1};
    """
    bint has_control_byte "fastgw_has_control" (const char* text, Py_ssize_t size) noexcept nogil
    const unsigned char FASTGW_HOST[256]
    const char FASTGW_PAIRS[201]


cdef inline uint64_t monotonic_us() noexcept nogil:
    """Microseconds of a clock that never jumps, exactly; some 30 ns to read."""
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <uint64_t>now.tv_sec * 1000000 + <uint64_t>now.tv_nsec // 1000


cdef inline uint64_t monotonic_ms() noexcept nogil:
    """Milliseconds of a clock that never jumps; coarse (4 ms), and a few nanoseconds to read."""
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now)
    return <uint64_t>now.tv_sec * 1000 + <uint64_t>now.tv_nsec // 1000000
