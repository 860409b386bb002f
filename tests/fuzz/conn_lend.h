/* The memory that conn_fuzz's client lends: files of every kind that memfd.c must tell apart, sent with a byte. */
#ifndef FPRED_FUZZ_LEND_H
#define FPRED_FUZZ_LEND_H

#include <sys/mman.h>

#include "conn_world.h"

#define LENT_BYTES 8192
#define LENT_MANY 300000
#define LENT_MAX 3 /* one more than a request may come with */

enum { NO_FILE, SEALED, LARGE, UNSEALED, WITHOUT_BYTES, READ_ONLY, NO_MEMFD, READ_SEALED, FILES };

static int lent_files[FILES];

static int new_file(size_t bytes, int seals)
{
    int fd = memfd_create("lent", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    require(fd != -1 && ftruncate(fd, (off_t)bytes) == 0);
    require(fcntl(fd, F_ADD_SEALS, seals) == 0);
    return fd;
}

static void lend_open(void)
{
    char path[64];
    lent_files[NO_FILE] = -1;
    lent_files[SEALED] = new_file(LENT_BYTES, F_SEAL_SHRINK);
    lent_files[LARGE] = new_file(LENT_MANY, F_SEAL_SHRINK);
    lent_files[UNSEALED] = new_file(LENT_BYTES, 0);
    lent_files[WITHOUT_BYTES] = new_file(0, F_SEAL_SHRINK);
    lent_files[READ_SEALED] = new_file(LENT_BYTES, F_SEAL_SHRINK | F_SEAL_WRITE);
    lent_files[NO_MEMFD] = open("/dev/null", O_RDWR | O_CLOEXEC);
    sprintf(path, "/proc/self/fd/%d", lent_files[SEALED]);
    lent_files[READ_ONLY] = open(path, O_RDONLY | O_CLOEXEC);
    require(lent_files[NO_MEMFD] != -1 && lent_files[READ_ONLY] != -1);
}

/* The same for each input, whatever the last one wrote there. */
static void lend_restore(void)
{
    static char bytes[LENT_BYTES];
    memset(bytes, 'a', sizeof bytes);
    require(pwrite(lent_files[SEALED], bytes, sizeof bytes, 0) == sizeof bytes);
    require(pwrite(lent_files[LARGE], bytes, sizeof bytes, 0) == sizeof bytes);
}

/* Sends one byte with up to three descriptors, three bits of `which` for each. As sendmsg. */
static ssize_t lend_with(int fd, const char *byte, unsigned which)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(LENT_MAX * sizeof(int))];
    } control;
    int files[LENT_MAX];
    size_t count = 0;
    for (unsigned i = 0; i < LENT_MAX; i++)
        if (which >> (3 * i) & 7)
            files[count++] = lent_files[which >> (3 * i) & 7];
    struct iovec vector = {(char *)byte, 1};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1};
    if (count != 0) {
        message.msg_control = control.bytes;
        message.msg_controllen = CMSG_SPACE(count * sizeof(int));
        *CMSG_FIRSTHDR(&message) = (struct cmsghdr){CMSG_LEN(count * sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
        memcpy(CMSG_DATA(CMSG_FIRSTHDR(&message)), files, count * sizeof(int));
    }
    return sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
}

#endif
