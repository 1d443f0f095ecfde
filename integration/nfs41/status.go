package nfs41

import (
	"fmt"
	"strconv"
	"strings"
)

// A Status is an error of the protocol, RFC 8881 section 15.1. It is an error
// value: errors.Is(err, nfs41.ROFS).
type Status uint32

// The statuses that a client of a gateway meets; any other one prints as a
// number.
const (
	PERM                Status = 1
	NOENT               Status = 2
	IO                  Status = 5
	ACCESS              Status = 13
	EXIST               Status = 17
	NOTDIR              Status = 20
	ISDIR               Status = 21
	INVAL               Status = 22
	FBIG                Status = 27
	NOSPC               Status = 28
	ROFS                Status = 30
	NAMETOOLONG         Status = 63
	NOTEMPTY            Status = 66
	DQUOT               Status = 69
	STALE               Status = 70
	BADHANDLE           Status = 10001
	NOTSUPP             Status = 10004
	SERVERFAULT         Status = 10006
	DELAY               Status = 10008
	DENIED              Status = 10010
	EXPIRED             Status = 10011
	LOCKED              Status = 10012
	GRACE               Status = 10013
	SHARE_DENIED        Status = 10015
	WRONGSEC            Status = 10016
	CLID_INUSE          Status = 10017
	MINOR_VERS_MISMATCH Status = 10021
	STALE_CLIENTID      Status = 10022
	STALE_STATEID       Status = 10023
	OLD_STATEID         Status = 10024
	BAD_STATEID         Status = 10025
	SYMLINK             Status = 10029
	NO_GRACE            Status = 10033
	RECLAIM_BAD         Status = 10034
	RECLAIM_CONFLICT    Status = 10035
	BADXDR              Status = 10036
	OPENMODE            Status = 10038
	ADMIN_REVOKED       Status = 10047
	BADSESSION          Status = 10052
	BADSLOT             Status = 10053
	COMPLETE_ALREADY    Status = 10054
	NOT_BOUND           Status = 10055 // NFS4ERR_CONN_NOT_BOUND_TO_SESSION
	SEQ_MISORDERED      Status = 10063
	RETRY_UNCACHED_REP  Status = 10068
	DEADSESSION         Status = 10078
)

// Error gives the name of the RFC.
func (s Status) Error() string {
	for _, line := range strings.Fields(names) {
		if number, name, _ := strings.Cut(line, "="); number == strconv.FormatUint(uint64(s), 10) {
			return "NFS4ERR_" + name
		}
	}
	return fmt.Sprintf("NFS4ERR %d", uint32(s))
}

const names = `
1=PERM 2=NOENT 5=IO 13=ACCESS 17=EXIST 20=NOTDIR 21=ISDIR 22=INVAL 27=FBIG 28=NOSPC 30=ROFS 63=NAMETOOLONG
66=NOTEMPTY 69=DQUOT 70=STALE 10001=BADHANDLE 10004=NOTSUPP 10006=SERVERFAULT 10008=DELAY 10010=DENIED
10011=EXPIRED 10012=LOCKED 10013=GRACE 10015=SHARE_DENIED 10016=WRONGSEC 10017=CLID_INUSE
10021=MINOR_VERS_MISMATCH 10022=STALE_CLIENTID 10023=STALE_STATEID 10024=OLD_STATEID 10025=BAD_STATEID
10029=SYMLINK 10033=NO_GRACE 10034=RECLAIM_BAD 10035=RECLAIM_CONFLICT 10036=BADXDR 10038=OPENMODE
10047=ADMIN_REVOKED 10052=BADSESSION 10053=BADSLOT 10054=COMPLETE_ALREADY 10055=CONN_NOT_BOUND_TO_SESSION
10063=SEQ_MISORDERED 10068=RETRY_UNCACHED_REP 10078=DEADSESSION`
