/*
 * causeway-preload.so is loaded into a gateway's ganesha.nfsd by LD_PRELOAD.
 * handles.c protects its file handles, and ends the process where it cannot.
 * grace.c shortens the grace period, and leaves Ganesha as it is where it cannot.
 * Here is what both need to be called at all: the functions of this library come
 * before those of the same name in what is loaded later, if it was linked to
 * look for them.
 */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <link.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "preload.h"

void say(int fd, const char *what, const char *why)
{
	const char *parts[] = { "causeway-preload: ", what, ": ", why, "\n" };

	for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++)
		if (write(fd, parts[i], strlen(parts[i])) < 0)
			return;
}

struct search {
	struct call *calls;
	size_t n;
};

/* Looks where one loaded object calls them. What it needs was bound when it was
 * loaded: Ganesha is linked, and loads its modules, with BIND_NOW. */
static int look(struct dl_phdr_info *object, size_t size, void *arg)
{
	struct search *s = arg;
	const ElfW(Dyn) *d = NULL;
	const ElfW(Sym) *symbols = NULL;
	const ElfW(Rela) *relocations = NULL;
	const char *names = NULL;
	size_t bytes = 0;

	(void)size;
	if (object->dlpi_name != NULL && strstr(object->dlpi_name, "linux-vdso") != NULL)
		return 0;
	for (int i = 0; i < object->dlpi_phnum; i++)
		if (object->dlpi_phdr[i].p_type == PT_DYNAMIC)
			d = (const ElfW(Dyn) *)(object->dlpi_addr + object->dlpi_phdr[i].p_vaddr);
	for (; d != NULL && d->d_tag != DT_NULL; d++) {
		switch (d->d_tag) {
		case DT_SYMTAB:
			symbols = (const ElfW(Sym) *)d->d_un.d_ptr;
			break;
		case DT_STRTAB:
			names = (const char *)d->d_un.d_ptr;
			break;
		case DT_JMPREL:
			relocations = (const ElfW(Rela) *)d->d_un.d_ptr;
			break;
		case DT_PLTRELSZ:
			bytes = d->d_un.d_val;
			break;
		}
	}
	if (symbols == NULL || names == NULL || relocations == NULL)
		return 0;
	for (; bytes >= sizeof(*relocations); bytes -= sizeof(*relocations), relocations++) {
		const char *name = names + symbols[ELF64_R_SYM(relocations->r_info)].st_name;

		for (size_t i = 0; i < s->n; i++) {
			if (strcmp(name, s->calls[i].name) != 0)
				continue;
			if (*(void **)(object->dlpi_addr + relocations->r_offset) == s->calls[i].here)
				s->calls[i].bound = true;
			else
				s->calls[i].past = true;
		}
	}
	return 0;
}

void find_callers(struct call *calls, size_t n)
{
	struct search s = { calls, n };

	dl_iterate_phdr(look, &s);
}

/* Ganesha loads its modules with RTLD_DEEPBIND, so that they would find the C
 * library's functions before those of this one. */
EXPORTED void *dlopen(const char *path, int flags)
{
	static void *(*next)(const char *, int);
	void *module;

	if (next == NULL)
		*(void **)&next = dlsym(RTLD_NEXT, "dlopen");
	if (next == NULL) {
		say(STDERR_FILENO, "dlopen", "the C library has none");
		abort();
	}
	if (path == NULL || strstr(path, "/libfsalvfs.so") == NULL)
		return next(path, flags);
	/* The module calls back while it is loaded, yet uses no handle. */
	module = next(path, flags & ~RTLD_DEEPBIND);
	if (module == NULL)
		return NULL;
	handles_loaded(module);
	grace_loaded();
	return module;
}

__attribute__((constructor)) static void start(void)
{
	handles_start();
	grace_start();
}
