/* SPDX-License-Identifier: Apache-2.0 */
/* How the file of a snapshot is replaced. */
#include "snapshot.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

static svc_err
failed(const char *path, struct svc_error *err)
{
	return svc_error_sys(err, SVC_E_UNKNOWN, errno,
	    "the snapshot %s cannot be written", path);
}

/* Whether it is what a writer left that was killed, as far as it came. */
static bool
is_ours(int fd, const struct stat *st)
{
	char head[sizeof(SNAPSHOT_MARK) - 1];
	if (!S_ISREG(st->st_mode) || st->st_uid != geteuid() ||
	    st->st_nlink != 1)
		return false;
	ssize_t n = pread(fd, head, sizeof(head), 0);
	return n >= 0 && memcmp(head, SNAPSHOT_MARK, (size_t)n) == 0;
}

/* Opens `fresh`, which nobody else has then. Another one may have renamed it
 * between the opening and the lock, which is that of what `path` names now. */
static svc_err
open_fresh(
    const char *path, const char *fresh, int *ret_fd, struct svc_error *err)
{
	for (;;) {
		struct stat mine, there;
		int fd = open(fresh,
		    O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK,
		    0600);
		if (fd < 0)
			return failed(path, err);
		svc_err rc = SVC_OK;
		bool same = false;
		if (flock(fd, LOCK_EX | LOCK_NB) != 0)
			rc = errno == EWOULDBLOCK
				 ? svc_error_set(err, SVC_E_AGAIN,
				       "the snapshot %s is being written", path)
				 : failed(path, err);
		else if (fstat(fd, &mine) != 0)
			rc = failed(path, err);
		else
			same = lstat(fresh, &there) == 0 &&
			       mine.st_dev == there.st_dev &&
			       mine.st_ino == there.st_ino;
		if (rc == SVC_OK && same && !is_ours(fd, &mine))
			rc = svc_error_set(err, SVC_E_UNKNOWN,
			    "the snapshot %s cannot be written, for %s is none "
			    "of svc's: remove it",
			    path, fresh);
		if (rc == SVC_OK && same) {
			*ret_fd = fd;
			return SVC_OK;
		}
		close(fd);
		if (rc != SVC_OK)
			return rc;
	}
}

static bool
write_all(int fd, const struct svc_buf *buf)
{
	size_t done = 0;
	if (ftruncate(fd, 0) != 0 || fchmod(fd, 0600) != 0)
		return false;
	while (done < buf->len) {
		ssize_t n = write(fd, buf->data + done, buf->len - done);
		if (n < 0 && errno != EINTR)
			return false;
		if (n > 0)
			done += (size_t)n;
	}
	/* Or a crash of the system could leave an empty file of this name. */
	return fsync(fd) == 0;
}

svc_err
snapshot_replace(
    const char *path, const struct svc_buf *buf, struct svc_error *err)
{
	struct svc_buf name;
	int fd = -1;
	svc_buf_init(&name, 8192);
	svc_buf_printf(&name, "%s.writing", path);
	const char *fresh = (const char *)name.data;
	svc_err rc = name.failed;
	if (rc != SVC_OK)
		svc_error_set(err, rc, "no memory to write %s", path);
	else
		rc = open_fresh(path, fresh, &fd, err);
	/* The lock goes with the file that it is of, under its new name. */
	if (rc == SVC_OK && (!write_all(fd, buf) || rename(fresh, path) != 0)) {
		rc = failed(path, err);
		unlink(fresh);
	}
	if (fd >= 0)
		close(fd);
	svc_buf_fini(&name);
	return rc;
}
