/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A library to preload: the wall clock of a program is as many seconds ahead
 * as the file in CHAOS_WALL_CLOCK says, which may change at any time, as when
 * somebody sets the clock of a machine. Nothing else moves: not the monotonic
 * clock, and no timed wait that goes by it. (libfaketime moves those as well,
 * which no system does.)
 */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static long long
ahead_s(void)
{
	static const volatile long long *seconds;
	const char *path;
	if (seconds != NULL)
		return *seconds;
	path = getenv("CHAOS_WALL_CLOCK");
	int fd = path != NULL ? open(path, O_RDONLY | O_CLOEXEC) : -1;
	void *at =
	    fd >= 0 ? mmap(NULL, sizeof(*seconds), PROT_READ, MAP_SHARED, fd, 0)
		    : MAP_FAILED;
	if (fd >= 0)
		close(fd);
	if (at == MAP_FAILED)
		abort(); /* it would be a test that tests nothing */
	seconds = at;
	return *seconds;
}

int
clock_gettime(clockid_t id, struct timespec *now)
{
	if (syscall(SYS_clock_gettime, id, now) != 0)
		return -1;
	if (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)
		now->tv_sec += ahead_s();
	return 0;
}

int
gettimeofday(struct timeval *restrict now, void *restrict zone)
{
	struct timespec ts;
	(void)zone;
	clock_gettime(CLOCK_REALTIME, &ts);
	now->tv_sec = ts.tv_sec;
	now->tv_usec = ts.tv_nsec / 1000;
	return 0;
}

time_t
time(time_t *ret_now)
{
	struct timespec ts;
	clock_gettime(CLOCK_REALTIME, &ts);
	if (ret_now != NULL)
		*ret_now = ts.tv_sec;
	return ts.tv_sec;
}
