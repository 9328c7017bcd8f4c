/* SPDX-License-Identifier: Apache-2.0 */
/* Runs a fuzz target over every file of a corpus folder, and over each file cut
 * at every length, so that the ordinary test run covers it without libFuzzer.
 */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int
replay(const char *path)
{
	FILE *f = fopen(path, "rb");
	if (f == NULL) {
		perror(path);
		return 1;
	}
	fseek(f, 0, SEEK_END);
	long end = ftell(f);
	rewind(f);
	size_t size = end > 0 ? (size_t)end : 0;
	uint8_t *data = malloc(size + 1);
	if (data == NULL || fread(data, 1, size, f) != size) {
		perror(path);
		free(data);
		fclose(f);
		return 1;
	}
	fclose(f);
	LLVMFuzzerTestOneInput(data, size);
	size_t step = size > 512 ? size / 512 : 1;
	for (size_t n = 0; n < size; n += step) {
		/* A block of its own, so that a read past the cut shows. */
		uint8_t *cut = malloc(n + 1);
		if (cut == NULL)
			break;
		for (size_t i = 0; i < n; i++)
			cut[i] = data[i];
		LLVMFuzzerTestOneInput(cut, n);
		free(cut);
	}
	free(data);
	return 0;
}

int
main(int argc, char **argv)
{
	if (argc != 2) {
		fprintf(stderr, "usage: %s CORPUS-FOLDER\n", argv[0]);
		return 2;
	}
	DIR *dir = opendir(argv[1]);
	if (dir == NULL) {
		perror(argv[1]);
		return 1;
	}
	int failed = 0, count = 0;
	struct dirent *entry;
	while ((entry = readdir(dir)) != NULL) {
		char path[4096];
		struct stat st;
		snprintf(path, sizeof(path), "%s/%s", argv[1], entry->d_name);
		if (stat(path, &st) == 0 && S_ISREG(st.st_mode)) {
			failed += replay(path);
			count++;
		}
	}
	closedir(dir);
	printf("%d inputs\n", count);
	return failed != 0 || count == 0;
}
