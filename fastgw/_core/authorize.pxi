# Step 3: credential bytes -> Principal, by one cache lookup.
#
# A miss goes to Python once (`Ingress.identify`), which verifies the token and returns a Principal;
# from then on the raw bytes of the credential find it. This part never verifies anything itself,
# and never keeps a credential that was not verified.

PRODUCE = 1
CONSUME = 2
ADMIN = 4


@cython.final
cdef class Principal:
    """Who sends a request, and what he may do.

    Args:
        user: name of the user.
        account_id: number of the tenant.
        permissions: sum of PRODUCE, CONSUME and ADMIN.
        stations: globs of the stations that the permissions hold for.
        epoch: the user's permissions epoch when the token was issued.
        expires_at: seconds since 1970 after which the credential is void; infinity for never.
        origins: web origins that may use the credential, or None for any client.
        key: name of the API key, or None for a user.
    """

    cdef readonly str user
    cdef readonly int64_t account_id
    cdef readonly int permissions
    cdef readonly tuple stations
    cdef readonly int64_t epoch
    cdef readonly double expires_at
    cdef readonly str key
    cdef frozenset origins
    cdef Bucket bucket               # what the user or key may still ask; None for no bound
    cdef bint every_station
    cdef dict verdicts

    def __init__(
        self,
        str user,
        int64_t account_id,
        int permissions,
        tuple stations=("*",),
        int64_t epoch=0,
        double expires_at=float("inf"),
        *,
        tuple origins=None,
        str key=None,
    ):
        self.user = user
        self.account_id = account_id
        self.permissions = permissions
        self.stations = stations
        self.epoch = epoch
        self.expires_at = expires_at
        self.origins = None if origins is None else frozenset(o.encode() for o in origins)
        self.key = key
        self.every_station = "*" in stations
        self.verdicts = {}

    cdef bint allows(self, int permission, str station):
        if not self.permissions & permission:
            return False
        if self.every_station:
            return True
        verdict = self.verdicts.get(station)
        return self.match(station) if verdict is None else verdict

    cdef bint match(self, str station):
        """Match the globs, once a station. WHY apart: a generator in a function costs each call."""
        verdict = any(fnmatchcase(station, glob) for glob in self.stations)
        if len(self.verdicts) < 1024:
            self.verdicts[station] = verdict
        return verdict

    def may(self, int permission, str station) -> bool:
        """Whether this principal may do `permission` on `station`."""
        return self.allows(permission, station)


cdef inline bint is_same_bytes(bytes one, bytes other) noexcept:
    """Whether two objects hold the same bytes; None equals nothing."""
    if other is None or PyBytes_GET_SIZE(one) != PyBytes_GET_SIZE(other):
        return False
    return one is other or memcmp(PyBytes_AS_STRING(one), PyBytes_AS_STRING(other),
                  <size_t>PyBytes_GET_SIZE(one)) == 0


@cython.final
cdef class TokenCache:
    """Verified credentials by their raw bytes; bounded, the oldest entry leaves first."""

    cdef dict principals
    cdef Py_ssize_t entries_max

    def __init__(self, Py_ssize_t entries_max):
        self.principals = {}
        self.entries_max = entries_max

    cdef inline Principal find(self, bytes credential, double now):
        """The principal of `credential`, or None when it is not cached or has expired."""
        cdef PyObject* found = PyDict_GetItem(self.principals, credential)
        cdef Principal principal
        if found == NULL:
            return None
        principal = <Principal>found
        if principal.expires_at <= now:
            del self.principals[credential]
            return None
        return principal

    cdef int remember(self, bytes credential, Principal principal) except -1:
        if PyBytes_GET_SIZE(credential) > CREDENTIAL_BYTES_MAX or self.entries_max < 1:
            return 0
        if len(self.principals) >= self.entries_max:
            del self.principals[next(iter(self.principals))]
        self.principals[credential] = principal
        return 0

    cdef int forget(self, str user) except -1:
        """Drop what a user's tokens have left here, because the user changed."""
        cdef Principal principal
        for credential, found in list(self.principals.items()):
            principal = found
            if principal.user == user:
                del self.principals[credential]
        return 0
