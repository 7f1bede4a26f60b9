# Strings of the formats that JSON schemas name, for `json_walk.pxi`: only those that nobody doubts.
#
# A string enters without its quotes and without escapes. Each format here is narrower than the
# authority's, whose word counts for every other string; tests hold it against plain patterns.
# SOURCE: RFC 3339 section 5.6, RFC 5321 section 4.1.2, RFC 2673 section 3.2, RFC 3986.

cdef enum JsonFormat:
    JSON_FORMAT_ANY, JSON_FORMAT_DATE, JSON_FORMAT_DATE_TIME, JSON_FORMAT_EMAIL, JSON_FORMAT_IPV4
    JSON_FORMAT_URI

# The words of `format`, in the order of JsonFormat.
JSON_FORMATS = ("", "date", "date-time", "email", "ipv4", "uri")


cdef inline bint is_digit(char c) noexcept nogil:
    return 48 <= c <= 57


cdef inline bint is_letter(char c) noexcept nogil:
    return 65 <= c <= 90 or 97 <= c <= 122


cdef inline int read_pair(const char* p) noexcept nogil:
    """The number that two digits spell, or -1."""
    return 10 * (p[0] - 48) + p[1] - 48 if is_digit(p[0]) and is_digit(p[1]) else -1


cdef bint is_date(const char* p) noexcept nogil:
    """Whether ten bytes are a day of the years 1000 to 2999; 29 February is left to others."""
    cdef int month = read_pair(p + 5)
    cdef int day = read_pair(p + 8)
    if p[0] not in (49, 50) or not is_digit(p[1]) or read_pair(p + 2) < 0:
        return False
    if p[4] != 45 or p[7] != 45 or not 1 <= month <= 12 or day < 1:
        return False
    if month == 2:
        return day <= 28
    return day <= (30 if month in (4, 6, 9, 11) else 31)


cdef bint is_date_time(const char* p, const char* end) noexcept nogil:
    cdef const char* digits
    if end - p < 20 or not is_date(p) or p[10] != 84 or p[13] != 58 or p[16] != 58:
        return False
    if not (0 <= read_pair(p + 11) <= 23 and 0 <= read_pair(p + 14) <= 59
            and 0 <= read_pair(p + 17) <= 59):
        return False
    p += 19
    if p[0] == 46:
        digits = p + 1
        p = skip_digits(digits, end)
        if not 1 <= p - digits <= 9 or p == end:
            return False
    if p[0] == 90:
        return p + 1 == end
    return (p[0] in (43, 45) and end - p == 6 and p[3] == 58
            and 0 <= read_pair(p + 1) <= 23 and 0 <= read_pair(p + 4) <= 59)


cdef bint is_ipv4(const char* p, const char* end) noexcept nogil:
    cdef const char* digits
    cdef int part
    for part in range(4):
        digits = p
        p = skip_digits(p, end)
        if not 1 <= p - digits <= 3 or (digits[0] == 48 and p - digits > 1):
            return False
        if p - digits == 3 and 100 * (digits[0] - 48) + read_pair(digits + 1) > 255:
            return False
        if part < 3:
            if p == end or p[0] != 46:
                return False
            p += 1
    return p == end


cdef bint is_dotted(
    const char* p, const char* end, int part_bytes_max, int parts_max, bint is_host
) noexcept nogil:
    """Whether it is up to so many parts of letters and digits with dots between them.

    A host has two or more, the last of 2 to 10 letters; other names have underscores too.
    """
    cdef const char* part = p
    cdef bint has_letters_only = True
    cdef int parts_count = 1
    while p < end and (is_letter(p[0]) or is_digit(p[0]) or p[0] == 46
                       or (p[0] == 95 and not is_host)):
        if p[0] == 46:
            if not 1 <= p - part <= part_bytes_max:
                return False
            parts_count += 1
            part = p + 1
            has_letters_only = True
        elif not is_letter(p[0]):
            has_letters_only = False
        p += 1
    if p != end or parts_count > parts_max:
        return False
    if is_host:
        return parts_count > 1 and has_letters_only and 2 <= p - part <= 10
    return 1 <= p - part <= part_bytes_max


cdef bint is_uri(const char* p, const char* end) noexcept nogil:
    """Whether it is http or https, a host, and up to ten plain steps of a path."""
    cdef const char* start
    cdef int steps_count
    if end - p < 8 or memcmp(p, b"http", 4) != 0:
        return False
    p += 5 if p[4] == 115 else 4
    if memcmp(p, b"://", 3) != 0:
        return False
    start = p + 3
    p = <const char*>memchr(start, 47, <size_t>(end - start))
    if p == NULL:
        p = end
    if not is_dotted(start, p, 30, 5, True):
        return False
    for steps_count in range(10):
        if p == end:
            return True
        start = p + 1
        p = start
        while p < end and (is_letter(p[0]) or is_digit(p[0]) or p[0] in (95, 126, 46, 45)):
            p += 1
        if p - start > 60 or (p < end and p[0] != 47):
            return False
    return p == end


cdef bint is_of_format(int format, const char* p, const char* end) noexcept nogil:
    cdef const char* at
    if format == JSON_FORMAT_DATE:
        return end - p == 10 and is_date(p)
    if format == JSON_FORMAT_DATE_TIME:
        return is_date_time(p, end)
    if format == JSON_FORMAT_IPV4:
        return is_ipv4(p, end)
    if format == JSON_FORMAT_URI:
        return is_uri(p, end)
    at = <const char*>memchr(p, 64, <size_t>(end - p))
    return at != NULL and is_dotted(p, at, 20, 3, False) and is_dotted(at + 1, end, 30, 5, True)
