/* What the parts of causeway-preload.so share; see preload.c. */

#include <stdbool.h>
#include <stddef.h>

#define EXPORTED __attribute__((visibility("default")))

/* A function that this library has in place of Ganesha's or the C library's. */
struct call {
	const char *name;
	void *here;
	bool bound; /* somebody calls it here */
	bool past; /* somebody calls another one */
};

/* find_callers looks at all that is loaded, and fills in bound and past. */
void find_callers(struct call *calls, size_t n);

/* say writes a line. */
void say(int fd, const char *what, const char *why);

/* Each part starts with the process, and goes on when FSAL VFS was loaded. */
void handles_start(void);
void handles_loaded(void *module);
void grace_start(void);
void grace_loaded(void);
