// The kernel's floor under a container's start: cgroups made and joined, a process born into new namespaces, an overlay and
// proc mounted, the root changed, a program executed, and nothing else. For each line on standard input it does this once,
// writes how many nanoseconds it took, and takes everything back outside the clock.
//
//	floor PROGRAM-DIR WORK-DIR NETNS(0|1) CGROUP...
//
// gcc -static -O2
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const char *work;
static int null; // the container's standard output
static char **groups;
static char options[3 * 4096];

static void die(const char *what) {
	fprintf(stderr, "floor: %s: %s\n", what, strerror(errno));
	exit(1);
}

static const char *in(const char *dir, const char *name) {
	static char path[4096];
	snprintf(path, sizeof path, "%s/%s", dir, name);
	return path;
}

static void put(const char *dir, const char *name, const char *text) {
	int fd = open(in(dir, name), O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		die(in(dir, name));
	close(fd);
}

// copy gives a new cpuset what its parent has: without it nobody may join.
static void copy(const char *parent, const char *dir, const char *name) {
	char text[4096];
	int fd = open(in(parent, name), O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return; // no cpuset
	ssize_t n = read(fd, text, sizeof text - 1);
	close(fd);
	if (n <= 0)
		return;
	text[n] = 0;
	put(dir, name, text);
}

static void makeGroups(void) {
	for (char **g = groups; *g; g++) {
		char dir[4096];
		strcpy(dir, in(*g, "c"));
		if (mkdir(dir, 0755))
			die(dir);
		copy(*g, dir, "cpuset.cpus");
		copy(*g, dir, "cpuset.mems");
	}
}

static void child(void) {
	dup2(null, 1);
	for (char **g = groups; *g; g++) // by tasks where there is one (v1): cgroup.procs waits for an RCU grace period
		put(*g, access(in(*g, "c/tasks"), F_OK) ? "c/cgroup.procs" : "c/tasks", "0");
	if (unshare(CLONE_NEWCGROUP))
		die("unshare");
	if (mount(0, "/", 0, MS_REC | MS_PRIVATE, 0))
		die("make mounts private");
	const char *root = in(work, "root");
	if (mount("overlay", root, "overlay", 0, options) || chdir(root))
		die("mount overlay");
	if (mount("proc", "proc", "proc", 0, 0))
		die("mount proc");
	if (syscall(SYS_pivot_root, ".", ".") || umount2(".", MNT_DETACH))
		die("pivot_root");
	execl("/block", "block", (char *)0);
	die("execute /block");
}

static long long now(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void takeBack(pid_t pid) {
	kill(pid, SIGKILL);
	waitpid(pid, 0, 0);
	for (char **g = groups; *g; g++)
		for (int i = 0; i < 1000 && rmdir(in(*g, "c")) && errno == EBUSY; i++)
			usleep(1000);
	unlink(in(work, "work/work/incompat/volatile/dirty")); // else the overlay is not mounted again
	rmdir(in(work, "work/work/incompat/volatile"));
	rmdir(in(work, "work/work/incompat"));
	rmdir(in(work, "work/work"));
}

int main(int argc, char **argv) {
	if (argc < 4)
		die("usage: floor PROGRAM-DIR WORK-DIR NETNS CGROUP...");
	work = argv[2];
	groups = argv + 4;
	long flags = CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | SIGCHLD;
	if (argv[3][0] == '1')
		flags |= CLONE_NEWNET;
	snprintf(options, sizeof options, "lowerdir=%s,upperdir=%s/upper,workdir=%s/work,volatile", argv[1], work, work);
	null = open("/dev/null", O_WRONLY | O_CLOEXEC);
	char line[16];
	while (fgets(line, sizeof line, stdin)) {
		int said[2];
		if (pipe2(said, O_CLOEXEC))
			die("pipe");
		long long began = now();
		makeGroups();
		pid_t pid = syscall(SYS_clone, flags, 0, 0, 0, 0);
		if (pid < 0)
			die("clone");
		if (pid == 0)
			child();
		close(said[1]);
		char byte;
		read(said[0], &byte, 1); // its end: the program has been executed
		long long took = now() - began;
		close(said[0]);
		takeBack(pid);
		printf("%lld\n", took);
		fflush(stdout);
	}
}
