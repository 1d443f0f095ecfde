/*
 * handles.c makes file handles that only the gateway itself can make.
 *
 * A file handle that Ganesha gives to a client names an export, a file system
 * and an inode, all of it readable. Ganesha opens whatever inode of the file
 * system a client writes in there, below the exported directory or not, and
 * takes it as a file of whatever export the client writes in there. So this
 * library adds two authentication codes under a key that clients do not have:
 *
 *	 what the client sees and sends (NFSv4)
 *	+---------+--------+--------+------+-----------------+-----+------+
 *	| version | export | length | fsid | kernel's handle | tag | seal |
 *	+---------+--------+--------+------+-----------------+-----+------+
 *	                            `----- tag covers -------'     |
 *	                            `----- seal covers, with ------'
 *	                                   the export's identity
 *
 * The tag is added by name_to_handle_at(2) and taken off by
 * open_by_handle_at(2), whatever the protocol. Between them, Ganesha's module
 * puts the file system's id (fsid) before the kernel's handle; there the tag is
 * encrypted with a pad of all that is before it, so that it is right on that
 * file system alone: the roots of all ext4 have the same handle.
 *
 * The seal is added where Ganesha writes a handle for a client, and covers with
 * it an identity of the export that is never used twice, though its number is:
 * what was learned of one export is worth nothing at another one, or at its
 * successor.
 *
 * Both are SipHash-2-4 (Aumasson and Bernstein, 2012) of 64 bits. They can be
 * guessed only by asking the gateway: at 100,000 tries a second, one chance in
 * a million takes six years.
 *
 * The environment:
 *	CAUSEWAY_HANDLES_KEY      file of the key, 16 bytes
 *	CAUSEWAY_HANDLES_EXPORTS  file of the exports' identities: 65536 numbers of
 *	                          8 bytes, 0 where there is no export. Without it
 *	                          handles are not sealed.
 *	CAUSEWAY_HANDLES_UNSEALED where it is set, handles without a seal pass too:
 *	                          those of NFSv3, which Ganesha makes and reads by
 *	                          functions that it hides. They have the tag. What was
 *	                          learned of one export is then good for another one
 *	                          of the gateway on the same file system, as far as
 *	                          that one lets the client in.
 *	CAUSEWAY_HANDLES_READY    file that is made, empty, when FSAL VFS was loaded
 *	                          and is known to call this library
 *
 * Whatever is missing ends the process with status 78, and a line on stderr and
 * in the last of these files: a gateway without protection is none. Where a
 * later Ganesha calls these functions in another order or not at all, no handle
 * passes.
 *
 * Learned from Ganesha 4.3 and 6.2: src/FSAL/FSAL_VFS/os/linux/handle_syscalls.c,
 * src/support/nfs_filehandle_mgmt.c, src/Protocols/NFS/nfs4_op_putfh.c and
 * src/FSAL/fsal_manager.c.
 */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "preload.h"

enum {
	tag_size = 8,
	key_size = 16,
	exports = 65536,
	largest = 128, /* of the kernel's handles, MAX_HANDLE_SZ */
	wire_max = 128, /* of NFSv4's, NFS4_FHSIZE */
	wire_head = 5, /* version, flags, export (2, in network order), length of the rest */
	ex_config = 78, /* of sysexits.h */
};

static uint64_t key[2];
static const volatile uint64_t *identities; /* by number of the export; NULL: no seals */
static bool unsealed; /* handles without a seal pass too */
static const char *ready_file;

/* ---- SipHash-2-4 ---- */

static uint64_t load(const uint8_t *p)
{
	uint64_t v = 0;

	for (int i = 0; i < 8; i++)
		v |= (uint64_t)p[i] << 8 * i;
	return v;
}

static uint64_t turn(uint64_t v, int bits)
{
	return v << bits | v >> (64 - bits);
}

static void rounds(uint64_t v[4], int n)
{
	while (n-- > 0) {
		v[0] += v[1];
		v[2] += v[3];
		v[1] = turn(v[1], 13) ^ v[0];
		v[3] = turn(v[3], 16) ^ v[2];
		v[0] = turn(v[0], 32);
		v[2] += v[1];
		v[0] += v[3];
		v[1] = turn(v[1], 17) ^ v[2];
		v[3] = turn(v[3], 21) ^ v[0];
		v[2] = turn(v[2], 32);
	}
}

static uint64_t siphash(const uint8_t *p, size_t n)
{
	uint64_t v[4] = {
		key[0] ^ 0x736f6d6570736575, key[1] ^ 0x646f72616e646f6d,
		key[0] ^ 0x6c7967656e657261, key[1] ^ 0x7465646279746573,
	};
	uint8_t last[8] = { [7] = (uint8_t)n };
	uint64_t m;

	for (size_t i = 0; i + 8 <= n; i += 8) {
		m = load(p + i);
		v[3] ^= m;
		rounds(v, 2);
		v[0] ^= m;
	}
	memcpy(last, p + n / 8 * 8, n % 8);
	m = load(last);
	v[3] ^= m;
	rounds(v, 2);
	v[0] ^= m;
	v[2] ^= 0xff;
	rounds(v, 4);
	return v[0] ^ v[1] ^ v[2] ^ v[3];
}

/* code authenticates n bytes of data in a context: what kind of code it is, and
 * what else it covers. */
static void code(uint8_t out[tag_size], uint64_t kind, uint64_t context, const void *data, size_t n)
{
	uint8_t all[16 + largest + tag_size];
	uint64_t sum;

	memcpy(all, &kind, 8);
	memcpy(all + 8, &context, 8);
	memcpy(all + 16, data, n);
	sum = siphash(all, 16 + n);
	memcpy(out, &sum, tag_size);
}

/* same takes the same time wherever a and b differ. */
static bool same(const uint8_t *a, const uint8_t *b)
{
	uint8_t differ = 0;

	for (int i = 0; i < tag_size; i++)
		differ |= a[i] ^ b[i];
	return differ == 0;
}

/* ---- The kernel's handles ---- */

enum { kind_tag = 1, kind_seal = 2, kind_pad = 3 };

struct kernel_handle {
	uint32_t bytes;
	int32_t type;
	uint8_t handle[largest];
};

static uint64_t tag_context(const struct kernel_handle *k)
{
	return (uint64_t)k->bytes << 32 | (uint32_t)k->type;
}

/* struct file_handle ends in a flexible array, which the compiler cannot see the
 * size of: it is taken by its address. */
EXPORTED int name_to_handle_at(int dir, const char *name, struct file_handle *h, int *mount_id, int flags)
{
	struct kernel_handle k = { 0 };
	uint32_t room = h->handle_bytes;

	if (room > tag_size)
		k.bytes = room - tag_size < largest ? room - tag_size : largest;
	if (syscall(SYS_name_to_handle_at, dir, name, &k, mount_id, flags) != 0) {
		if (errno == EOVERFLOW) /* bytes is what it would take */
			h->handle_bytes = k.bytes + tag_size;
		return -1;
	}
	if (k.bytes + tag_size > room) { /* not of this kernel: a handle of no bytes */
		h->handle_bytes = k.bytes + tag_size;
		errno = EOVERFLOW;
		return -1;
	}
	memcpy(h->f_handle, k.handle, k.bytes);
	code(h->f_handle + k.bytes, kind_tag, tag_context(&k), k.handle, k.bytes);
	h->handle_bytes = k.bytes + tag_size;
	h->handle_type = k.type;
	return 0;
}

EXPORTED int open_by_handle_at(int mount, struct file_handle *h, int flags)
{
	struct kernel_handle k = { 0 };
	uint8_t want[tag_size];

	if (h->handle_bytes < tag_size || h->handle_bytes - tag_size > largest)
		goto forged;
	k.bytes = h->handle_bytes - tag_size;
	k.type = h->handle_type;
	memcpy(k.handle, h->f_handle, k.bytes);
	code(want, kind_tag, tag_context(&k), k.handle, k.bytes);
	if (!same(want, h->f_handle + k.bytes))
		goto forged;
	return (int)syscall(SYS_open_by_handle_at, mount, &k, flags);
forged:
	errno = ESTALE;
	return -1;
}

/* ---- FSAL VFS's handles ---- */

/* vfs_file_handle_t: flags, fsid, type, and the kernel's handle with its tag. */
enum { vfs_max = 59 };
struct vfs_handle {
	uint8_t length;
	uint8_t bytes[vfs_max];
};

static int (*map_name)(int, void *, const char *, struct vfs_handle *, int);
static int (*open_handle)(void *, struct vfs_handle *, int, void *);

/* pad encrypts the tag, and decrypts it. */
static bool pad(struct vfs_handle *h)
{
	uint8_t p[tag_size];

	if (h->length < tag_size || h->length > vfs_max)
		return false;
	code(p, kind_pad, 0, h->bytes, h->length - tag_size);
	for (int i = 0; i < tag_size; i++)
		h->bytes[h->length - tag_size + i] ^= p[i];
	return true;
}

EXPORTED int vfs_map_name_to_handle_at(int dir, void *fs, const char *name, struct vfs_handle *h, int flags)
{
	int status = map_name(dir, fs, name, h, flags);

	if (status == 0 && !pad(h)) {
		errno = EOVERFLOW;
		return -1;
	}
	return status;
}

EXPORTED int vfs_open_by_handle(void *fs, struct vfs_handle *h, int flags, void *error)
{
	struct vfs_handle plain = { .length = h->length };

	if (h->length <= vfs_max)
		memcpy(plain.bytes, h->bytes, h->length);
	/* Ganesha has checked the length; one that cannot be has no tag either. */
	return open_handle(fs, pad(&plain) ? &plain : h, flags, error);
}

/* ---- The clients' handles ---- */

/* What Ganesha declares, as far as it is used here. */
struct nfs_fh4 {
	unsigned int length;
	uint8_t *bytes;
};
struct buffer {
	void *bytes;
	size_t length;
};

static bool (*to_wire)(bool, struct nfs_fh4 *, const void *, void *);
static void *(*find_export)(uint16_t);
static int (*check_access)(void *);
static bool (*valid)(struct buffer *);

/* The export that this thread was last asked for, until a handle of it came. */
static __thread uint16_t awaited __attribute__((tls_model("initial-exec")));

static uint64_t identity(uint16_t export)
{
	return identities[export];
}

/* Ganesha writes the handle of an object for a client. */
EXPORTED bool nfs4_FSALToFhandle(bool allocate, struct nfs_fh4 *fh, const void *object, void *export)
{
	uint16_t id;

	if (!to_wire(allocate, fh, object, export))
		return false;
	if (identities == NULL)
		return true;
	id = (uint16_t)(fh->bytes[2] << 8 | fh->bytes[3]);
	/* The pseudo file system has handles of names, which it looks up. */
	if (id == 0)
		return true;
	/* What has no room stays unsealed, and does not pass when it comes back. */
	if (identity(id) == 0 || fh->length > wire_max - tag_size || fh->length != wire_head + (unsigned int)fh->bytes[4])
		return true;
	code(fh->bytes + fh->length, kind_seal, identity(id), fh->bytes + wire_head, fh->length - wire_head);
	fh->bytes[4] += tag_size;
	fh->length += tag_size;
	return true;
}

/* PUTFH begins with the export that the handle names, ... */
EXPORTED void *get_gsh_export(uint16_t id)
{
	void *found = find_export(id);

	awaited = identities != NULL && found != NULL ? id : 0;
	return found;
}

/* ... asks whether the client may use it, if it is another one than before, ... */
EXPORTED int nfs4_export_check_access(void *request)
{
	int status = check_access(request);

	if (status != 0)
		awaited = 0;
	return status;
}

/* ... and goes on, on the same thread, with the rest of the handle. After that
 * the cache asks again, about that handle without its seal, and about parents
 * of it, which Ganesha has by handles that it never gave out. */
EXPORTED bool vfs_valid_handle(struct buffer *b)
{
	uint8_t want[tag_size];
	uint16_t id = awaited;
	size_t n;

	awaited = 0;
	if (id == 0)
		return valid(b);
	if (b->bytes == NULL || b->length < tag_size || b->length > wire_max || identity(id) == 0)
		return false;
	n = b->length - tag_size;
	code(want, kind_seal, identity(id), b->bytes, n);
	if (!same(want, (uint8_t *)b->bytes + n))
		return unsealed && valid(b);
	b->length = n;
	return valid(b);
}

/* ---- To be called at all ---- */

_Noreturn static void die(const char *what, const char *why)
{
	int fd = -1;

	say(STDERR_FILENO, what, why);
	if (ready_file != NULL)
		fd = open(ready_file, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd >= 0)
		say(fd, what, why);
	_exit(ex_config);
}

/* The functions that stand between Ganesha's parts, or before the C library. */
static struct call calls[] = {
	{ .name = "name_to_handle_at", .here = name_to_handle_at },
	{ .name = "open_by_handle_at", .here = open_by_handle_at },
	{ .name = "vfs_map_name_to_handle_at", .here = vfs_map_name_to_handle_at },
	{ .name = "vfs_open_by_handle", .here = vfs_open_by_handle },
	{ .name = "nfs4_FSALToFhandle", .here = nfs4_FSALToFhandle },
	{ .name = "get_gsh_export", .here = get_gsh_export },
	{ .name = "nfs4_export_check_access", .here = nfs4_export_check_access },
	{ .name = "vfs_valid_handle", .here = vfs_valid_handle },
};

/* beyond is a function of the module, which has the same name here. */
static void *beyond(void *module, const char *name, void *here)
{
	void *there = dlsym(module, name);

	if (there == NULL || there == here)
		die(name, "is not in FSAL VFS");
	return there;
}

void handles_loaded(void *module)
{
	int fd;

	*(void **)&valid = beyond(module, "vfs_valid_handle", vfs_valid_handle);
	*(void **)&map_name = beyond(module, "vfs_map_name_to_handle_at", vfs_map_name_to_handle_at);
	*(void **)&open_handle = beyond(module, "vfs_open_by_handle", vfs_open_by_handle);
	find_callers(calls, sizeof(calls) / sizeof(calls[0]));
	for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
		if (calls[i].past)
			die(calls[i].name, "is called past this library");
		if (!calls[i].bound)
			die(calls[i].name, "is called by nobody");
	}
	fd = open(ready_file, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		die(ready_file, "cannot be made");
	close(fd);
}

static void read_key(const char *file)
{
	uint8_t bytes[key_size + 1];
	int fd = open(file, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);

	if (fd < 0)
		die(file, "cannot be opened");
	if (read(fd, bytes, sizeof(bytes)) != key_size)
		die(file, "is no key of 16 bytes");
	close(fd);
	key[0] = load(bytes);
	key[1] = load(bytes + 8);
	explicit_bzero(bytes, sizeof(bytes));
}

static void map_identities(const char *file)
{
	int fd = open(file, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	struct stat st;
	void *at;

	if (fd < 0)
		die(file, "cannot be opened");
	if (fstat(fd, &st) != 0 || st.st_size != exports * (off_t)sizeof(*identities))
		die(file, "is no list of the exports' identities");
	at = mmap(NULL, exports * sizeof(*identities), PROT_READ, MAP_SHARED, fd, 0);
	if (at == MAP_FAILED)
		die(file, "cannot be mapped");
	close(fd);
	identities = at;
}

void handles_start(void)
{
	const char *key_file = getenv("CAUSEWAY_HANDLES_KEY");
	const char *exports_file = getenv("CAUSEWAY_HANDLES_EXPORTS");

	ready_file = getenv("CAUSEWAY_HANDLES_READY");
	if (key_file == NULL || ready_file == NULL)
		die("CAUSEWAY_HANDLES_KEY, CAUSEWAY_HANDLES_READY", "one is not set");
	unsealed = getenv("CAUSEWAY_HANDLES_UNSEALED") != NULL;
	read_key(key_file);
	if (exports_file != NULL)
		map_identities(exports_file);
	/* Not there in another program, which then calls none of ours either. */
	*(void **)&to_wire = dlsym(RTLD_NEXT, "nfs4_FSALToFhandle");
	*(void **)&find_export = dlsym(RTLD_NEXT, "get_gsh_export");
	*(void **)&check_access = dlsym(RTLD_NEXT, "nfs4_export_check_access");
}
