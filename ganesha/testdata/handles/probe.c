/* probe name ROOM PATH: prints what name_to_handle_at makes of PATH in so many bytes.
 * probe open TYPE HANDLE: opens a handle, in hexadecimal, of the file system of
 * the working directory, and prints the inode. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int main(int argc, char **argv)
{
	union {
		struct file_handle h;
		unsigned char all[sizeof(struct file_handle) + 256];
	} u;
	struct stat st;
	int mount, fd;

	if (argc != 4)
		return 2;
	memset(&u, 0xee, sizeof(u));
	if (strcmp(argv[1], "name") == 0) {
		unsigned int room = atoi(argv[2]), i;

		u.h.handle_bytes = room;
		if (name_to_handle_at(AT_FDCWD, argv[3], &u.h, &mount, 0) != 0) {
			printf("errno %d, %u bytes\n", errno, u.h.handle_bytes);
			return 0;
		}
		for (i = sizeof(u.h) + room; i < sizeof(u); i++)
			if (u.all[i] != 0xee)
				printf("written beyond the buffer: ");
		printf("%d ", u.h.handle_type);
		for (i = 0; i < u.h.handle_bytes; i++)
			printf("%02x", u.h.f_handle[i]);
		printf("\n");
		return 0;
	}
	u.h.handle_type = atoi(argv[2]);
	u.h.handle_bytes = strlen(argv[3]) / 2;
	for (unsigned int i = 0; i < u.h.handle_bytes; i++)
		if (sscanf(argv[3] + 2 * i, "%2hhx", &u.h.f_handle[i]) != 1)
			return 2;
	mount = open(".", O_RDONLY | O_DIRECTORY);
	fd = open_by_handle_at(mount, &u.h, O_RDONLY);
	if (fd < 0 || fstat(fd, &st) != 0)
		printf("errno %d\n", errno);
	else
		printf("inode %lu\n", (unsigned long)st.st_ino);
	return 0;
}
