# For builds with -DUNDERFOOT_MUTANTS=ON: generates the copy of mmu/ and vmm/ that contains the mutants, and lets
# UNDERFOOT_PRODUCT_DIR name the folder that the copy is in. A build after a change of the product or of a mutant
# runs CMake again, which generates the copy again; files whose text is the same keep their time.
find_package(Python3 REQUIRED COMPONENTS Interpreter)
set(UNDERFOOT_PRODUCT_DIR ${PROJECT_BINARY_DIR}/mutated)
execute_process(
  COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_LIST_DIR}/generate.py ${UNDERFOOT_PRODUCT_DIR}
  COMMAND_ERROR_IS_FATAL ANY)

file(GLOB_RECURSE inputs LIST_DIRECTORIES false CONFIGURE_DEPENDS
  ${PROJECT_SOURCE_DIR}/mmu/* ${PROJECT_SOURCE_DIR}/vmm/* ${CMAKE_CURRENT_LIST_DIR}/*.diff)
list(APPEND inputs ${CMAKE_CURRENT_LIST_DIR}/generate.py ${CMAKE_CURRENT_LIST_DIR}/kill_table.tsv)
set_property(DIRECTORY ${PROJECT_SOURCE_DIR} APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${inputs})
